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
    depend_on_everything,
    depend_on_nothing,
    elementwise,
    gated,
    group_norm,
    keep_axes,
    layer_norm,
    linear,
    matmul,
    reduction,
)
from convatlas.analysis.receptive_field.window_rules import (
    adaptive_pooling,
    convolution,
    folding,
    fractional_pooling,
    padding,
    pixel_shuffle,
    pixel_unshuffle,
    pooling,
    unfolding,
    upsampling,
)


@cache
def operator_kind(operator: Any) -> OperatorKind:
    """The name, argument names, FLOP formula and receptive-field rule of an ATen operator."""
    schema = operator._schema
    name = schema.name.removeprefix("aten::")
    rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if rule is None and torch.Tag.pointwise in operator.tags:
        rule = elementwise
    elif rule is None and torch.Tag.reduction in operator.tags:
        rule = reduction
    argument_names = tuple(argument.name for argument in schema.arguments)
    flop_formula = flop_registry.get(operator.overloadpacket)
    return OperatorKind(name, argument_names, schema.is_mutable, flop_formula, rule)


def apply_rule(call: OperatorCall) -> tuple[ImageAxes | list[ImageAxes] | None, bool]:
    """The image axes of the outputs (a list: those of each output), and whether the operator is supported.

    The output of an unsupported operator is treated as depending on all units of all inputs. An operator
    without a rule counts as supported where none of its inputs depends on the image.
    """
    if call.kind.rule is not None:
        return call.kind.rule(call), True
    return depend_on_everything(call), not any(call.axes_of(tensor) for tensor in call.tensors())


RULES: dict[str, Rule] = {
    name: rule
    for rule, names in (
        (convolution, "convolution _convolution cudnn_convolution"),
        (pooling, "max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d"),
        (adaptive_pooling, "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d"),
        (adaptive_pooling, "adaptive_max_pool2d adaptive_max_pool3d"),
        (upsampling, "upsample_nearest1d upsample_nearest2d upsample_nearest3d"),
        (upsampling, "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d"),
        (upsampling, "upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d"),
        (upsampling, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
        (padding, "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d"),
        (padding, "replication_pad1d replication_pad2d replication_pad3d"),
        (fractional_pooling, "fractional_max_pool2d fractional_max_pool3d"),
        (unfolding, "im2col"),
        (folding, "col2im"),
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
        (rearranged, "roll flip grid_sampler_2d grid_sampler_3d max_unpool2d max_unpool3d"),
        (reduction, "mean sum amax amin max min argmax argmin prod"),
        (reduction, "var_mean var std linalg_vector_norm norm"),
        (elementwise, "_prelu_kernel rrelu_with_noise log_sigmoid_forward"),
        (gated, "glu"),
        (along_dim, "_softmax _safe_softmax _log_softmax cumsum"),
        (batch_norm, "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training"),
        (batch_norm, "cudnn_batch_norm"),
        (layer_norm, "native_layer_norm"),
        (group_norm, "native_group_norm"),
        (matmul, "addmm mm bmm baddbmm"),
        (linear, "linear mv"),
        (attention, "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention"),
        (attention, "_scaled_dot_product_flash_attention _scaled_dot_product_attention_math"),
        (copy, "copy"),
        (keep_axes, "clone _to_copy detach alias lift_fresh native_dropout channel_shuffle hardswish"),
        (depend_on_nothing, "empty empty_like empty_strided new_empty zeros zeros_like new_zeros"),
        (depend_on_nothing, "ones ones_like new_ones full full_like new_full zero fill"),
        (depend_on_nothing, "arange linspace eye scalar_tensor rand randn rand_like randn_like randint"),
        (depend_on_nothing, "bernoulli uniform normal random"),
        (depend_on_nothing, "_assert_async sym_size sym_numel is_same_size embedding"),
    )
    for name in names.split()
}
