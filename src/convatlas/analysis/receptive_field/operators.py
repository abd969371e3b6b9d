"""The receptive-field rule of each ATen operator; an operator without a rule is reported by name."""

from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from convatlas.analysis.receptive_field.axes import ImageAxes
from convatlas.analysis.receptive_field.call import OperatorCall, OperatorKind, Rule
from convatlas.analysis.receptive_field.indexing_rules import (
    as_strided,
    concatenation,
    expand,
    index_select,
    indexing,
    permute,
    rearranged,
    select,
    slicing,
    splitting,
    squeeze,
    stack,
    transpose,
    unbind,
    unsqueeze,
    view,
)
from convatlas.analysis.receptive_field.mixing_rules import (
    along_dim,
    attention,
    batch_norm,
    copy,
    elementwise,
    everything,
    group_norm,
    layer_norm,
    linear,
    matmul,
    nothing,
    reduction,
    same,
)
from convatlas.analysis.receptive_field.window_rules import (
    adaptive_pooling,
    convolution,
    padding,
    pixel_shuffle,
    pixel_unshuffle,
    pooling,
    unfolding,
    upsampling,
)


@cache
def operator_kind(operator: Any) -> OperatorKind:
    schema = operator._schema
    name = schema.name.removeprefix("aten::")
    rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if rule is None:
        rule = elementwise if torch.Tag.pointwise in operator.tags else reduction if torch.Tag.reduction in operator.tags else None
    flops = flop_registry.get(operator.overloadpacket)
    return OperatorKind(name, tuple(argument.name for argument in schema.arguments), schema.is_mutable, flops, rule)


def axes_of(call: OperatorCall) -> tuple[ImageAxes | list[ImageAxes] | None, bool]:
    """What the outputs see (a list: each its own), and whether the operator is understood.

    Of one that is not, every unit is taken to see all that any of its inputs sees.
    """
    if call.kind.rule is not None:
        return call.kind.rule(call), True
    return everything(call), not any(call.axes_of(t) for t in call.tensors())


RULES: dict[str, Rule] = {
    name: rule
    for rule, names in (
        (convolution, "convolution _convolution cudnn_convolution"),
        (pooling, "max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d"),
        (adaptive_pooling, "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d adaptive_max_pool3d"),
        (upsampling, "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d"),
        (upsampling, "upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d"),
        (upsampling, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
        (padding, "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d"),
        (padding, "replication_pad1d replication_pad2d replication_pad3d"),
        (unfolding, "im2col"),
        (pixel_shuffle, "pixel_shuffle"),
        (pixel_unshuffle, "pixel_unshuffle"),
        (view, "view _unsafe_view reshape _reshape_alias"),
        (as_strided, "as_strided"),
        (permute, "permute"),
        (transpose, "t transpose"),
        (unsqueeze, "unsqueeze"),
        (squeeze, "squeeze"),
        (expand, "expand"),
        (slicing, "slice"),
        (select, "select"),
        (splitting, "split split_with_sizes unsafe_split unsafe_split_with_sizes"),
        (unbind, "unbind"),
        (concatenation, "cat"),
        (stack, "stack"),
        (indexing, "index"),
        (index_select, "index_select"),
        (rearranged, "roll flip grid_sampler_2d max_unpool2d"),
        (reduction, "mean sum amax amin max min argmax argmin var_mean var std linalg_vector_norm norm prod"),
        (along_dim, "_softmax _safe_softmax _log_softmax cumsum"),
        (batch_norm, "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm"),
        (layer_norm, "native_layer_norm"),
        (group_norm, "native_group_norm"),
        (matmul, "addmm mm bmm baddbmm"),
        (linear, "linear mv"),
        (attention, "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention"),
        (attention, "_scaled_dot_product_flash_attention _scaled_dot_product_attention_math"),
        (copy, "copy"),
        (same, "clone _to_copy detach alias lift_fresh native_dropout channel_shuffle hardswish"),
        (nothing, "empty empty_like empty_strided new_empty zeros zeros_like new_zeros ones ones_like new_ones full full_like new_full"),
        (nothing, "arange linspace eye scalar_tensor rand randn rand_like randn_like randint bernoulli uniform normal zero fill random"),
        (nothing, "_assert_async sym_size sym_numel is_same_size embedding"),
    )
    for name in names.split()
}
