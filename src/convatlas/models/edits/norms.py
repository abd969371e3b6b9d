"""Another normalisation in place of batch norm, or none."""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Literal

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.channel_bias import ChannelBias
from convatlas.layers.weight_norm import add_weight_norm
from convatlas.models.edits.record import EditRecord
from convatlas.models.edits.target import Target

NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
Norm = nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d
_OPERATORS = frozenset({"native_batch_norm", "cudnn_batch_norm", "native_group_norm", "native_layer_norm"})


class SwapNorm(EditRecord, frozen=True, kw_only=True, tag=True):
    """Another normalisation in place of every one of images: batch, layer (over channels and grid of one
    image), instance, group (arXiv:1803.08494, with `groups`), or weight (arXiv:1602.07868, of every
    convolution; its normalisations go).

    The scale and shift of each channel, and epsilon, stay. A swap to the normalisation that it has is
    refused, since it touches nothing.
    """

    to: Literal["batch", "layer", "instance", "group", "weight"]
    groups: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups < 1 or (self.to != "group" and self.groups != 8):
            raise UsageError(
                f"groups of SwapNorm are those of to=group, 1 or more, not {self.groups} of to={self.to}"
            )

    def change(self, target: Target) -> bool:
        norms = [(path, norm) for path, norm in norms_in(target) if not self._is_target(norm)]
        if self.to == "instance":
            self._check_grids(target, [path for path, _ in norms])
        target.replace({norm: target.build(partial(self._norm, path, norm)) for path, norm in norms})
        if self.to == "weight" and norms:
            for _, conv in target.layers(nn.Conv2d):
                add_weight_norm(conv)  # type: ignore[arg-type]
        return bool(norms)

    def _is_target(self, norm: Norm) -> bool:
        match norm:
            case nn.GroupNorm():
                return norm.num_groups == {"layer": 1, "group": self.groups}.get(self.to)
            case nn.BatchNorm2d():
                return self.to == "batch"
            case _:
                return self.to == "instance"

    def _norm(self, path: str, norm: Norm) -> nn.Module:
        channels = channels_of(norm)
        if self.to == "weight":
            return nn.Identity()
        if self.to == "batch":
            return nn.BatchNorm2d(channels, norm.eps, affine=norm.affine)
        if self.to == "instance":
            return nn.InstanceNorm2d(channels, norm.eps, affine=norm.affine)
        groups = 1 if self.to == "layer" else self.groups
        if channels % groups:
            raise UsageError(
                f"{path} has {channels} channels, which {groups} groups do not divide: give other groups"
            )
        return nn.GroupNorm(groups, channels, norm.eps, norm.affine)

    def _check_grids(self, target: Target, paths: list[str]) -> None:
        """Raises UsageError for a map of one pixel, which has no variance in an image."""
        calls = {call.path: call for call in target.calls} if target.example is not None else {}
        for path in paths:
            if path in calls and calls[path].output_shapes[0][2:] == (1, 1):
                raise UsageError(f"{path} has a grid of one pixel, which has no variance: take to=layer")

    @property
    def excluded_operators(self) -> frozenset[str]:
        kept = {
            "batch": {"native_batch_norm", "cudnn_batch_norm"},
            "instance": {"native_batch_norm", "cudnn_batch_norm"},
            "weight": set[str](),
        }
        return _OPERATORS - kept.get(self.to, {"native_group_norm"})

    def nothing(self, target: Target) -> str:
        has_norms = any(True for _ in norms_in(target))
        return f"every normalisation of images is {self.to} already" if has_norms else _NONE


class RemoveNorm(EditRecord, frozen=True, kw_only=True, tag=True):
    """No normalisation of images: of each only the shift of the channels remains, where the convolution
    before has no bias."""

    def change(self, target: Target) -> bool:
        with_bias = set(_after_biased_convolution(target.module))
        norms = {norm: norm.affine and norm not in with_bias for _, norm in norms_in(target)}
        target.replace(
            {
                norm: target.build(partial(ChannelBias, channels_of(norm))) if has_shift else nn.Identity()
                for norm, has_shift in norms.items()
            }
        )
        return bool(norms)

    @property
    def excluded_operators(self) -> frozenset[str]:
        return _OPERATORS

    def nothing(self, target: Target) -> str:
        return _NONE


_NONE = "it has no normalisation of images (batch, group or instance norm)"


def norms_in(target: Target) -> Iterator[tuple[str, Norm]]:
    yield from target.layers(*NORMS)  # type: ignore[misc]


def channels_of(norm: Norm) -> int:
    return norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features


def _after_biased_convolution(module: nn.Module) -> Iterator[nn.Module]:
    """The children that follow a convolution with bias."""
    for parent in module.modules():
        for before, after in pairwise(parent.children()):
            if isinstance(before, nn.Conv2d) and before.bias is not None:
                yield after
