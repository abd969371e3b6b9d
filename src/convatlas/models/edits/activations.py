"""Another activation in place of all, or of all of one kind."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from convatlas.layers.lenet import ScaledTanh
from convatlas.models.edits.record import EditRecord
from convatlas.models.edits.target import Target

Activation = Literal[
    "sigmoid",
    "tanh",
    "scaled_tanh",
    "relu",
    "leaky_relu",
    "prelu",
    "elu",
    "relu6",
    "gelu",
    "swish",
    "hard_swish",
]


@dataclass(frozen=True)
class Kind:
    module: type[nn.Module]
    operator: str = ""  # by which the kind is seen in a forward; "" where others run it as well
    has_inplace: bool = False

    def build(self, inplace: bool) -> nn.Module:
        make: Callable[..., nn.Module] = self.module
        module = make(inplace=inplace) if self.has_inplace else make()
        module.inplace = inplace  # type: ignore[assignment]  # so that an edit which undoes this one restores it
        return module


KINDS: dict[str, Kind] = {
    "sigmoid": Kind(nn.Sigmoid, "sigmoid"),
    "tanh": Kind(nn.Tanh, "tanh"),
    "scaled_tanh": Kind(ScaledTanh),
    "relu": Kind(nn.ReLU, "relu", has_inplace=True),
    "leaky_relu": Kind(nn.LeakyReLU, "leaky_relu", has_inplace=True),
    "prelu": Kind(nn.PReLU, "_prelu_kernel"),
    "elu": Kind(nn.ELU, "elu", has_inplace=True),
    "relu6": Kind(nn.ReLU6, "hardtanh", has_inplace=True),
    "gelu": Kind(nn.GELU, "gelu"),
    "swish": Kind(nn.SiLU, "silu", has_inplace=True),
    "hard_swish": Kind(nn.Hardswish, "hardswish", has_inplace=True),
}
NAMES = {kind.module: name for name, kind in KINDS.items()}


class SwapActivation(EditRecord, frozen=True, kw_only=True, tag=True):
    """`to` in place of every activation, or of every one of the kind `of`.

    Sigmoids are taken for gates, such as those of squeeze and excitation, and stay, unless `of="sigmoid"`.
    PReLU has one slope a layer (arXiv:1502.01852, the channel-shared variant). Swapped and swapped back, a
    network is what it was; a swap to the activation that it has is refused, since it touches nothing.
    """

    to: Activation
    of: Activation | None = None

    def change(self, target: Target) -> bool:
        kind = KINDS[self.to]
        layers = target.layers(*(KINDS[name].module for name in self._old_kinds))
        target.replace({layer: target.build(partial(kind.build, _is_inplace(layer))) for _, layer in layers})
        return bool(layers)

    @property
    def _old_kinds(self) -> set[str]:
        kinds = {*KINDS} - {"sigmoid"} if self.of is None else {str(self.of)}
        return kinds - {self.to}

    @property
    def excluded_operators(self) -> frozenset[str]:
        return frozenset(KINDS[name].operator for name in self._old_kinds) - {"", KINDS[self.to].operator}

    def nothing(self, target: Target) -> str:
        kinds = {NAMES[type(layer)] for _, layer in target.layers(*NAMES)}
        if not kinds:
            return "it has no activation that is a module"
        if self.of == self.to:
            return "to and of are the same"
        if self.of is not None:
            return f"it has no {self.of}, but {' and '.join(sorted(kinds))}"
        if kinds == {"sigmoid"}:
            return "its activations are sigmoids, which are taken for gates: give of=sigmoid"
        return f"every activation is {self.to} already"


def _is_inplace(activation: nn.Module) -> bool:
    return bool(getattr(activation, "inplace", False))
