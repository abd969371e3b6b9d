"""Another rate of dropout."""

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from convatlas.errors import UsageError
from convatlas.models.edits.record import EditRecord
from convatlas.models.edits.target import Target


class SetDropout(EditRecord, frozen=True, kw_only=True, tag=True):
    """Every dropout has the rate `p`, at least 0 and below 1: also those of auxiliary heads, which the
    argument `dropout` of a network leaves as they are. A rate that all have is refused, since it touches
    nothing."""

    p: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.p < 1:
            raise UsageError(f"p of SetDropout should be at least 0 and below 1, not {self.p:g}")

    def change(self, target: Target) -> bool:
        return _set_rates(target.module, self.p)

    def nothing(self, target: Target) -> str:
        return f"every dropout has the rate {self.p:g}" if _dropouts(target.module) else _NONE


class RemoveDropout(EditRecord, frozen=True, kw_only=True, tag=True):
    """No dropout: every rate is 0."""

    def change(self, target: Target) -> bool:
        return _set_rates(target.module, 0.0)

    def nothing(self, target: Target) -> str:
        return "every dropout has the rate 0" if _dropouts(target.module) else _NONE


_NONE = "it has no dropout"


def _dropouts(module: nn.Module) -> list[_DropoutNd]:
    return [layer for layer in module.modules() if isinstance(layer, _DropoutNd)]


def _set_rates(module: nn.Module, p: float) -> bool:
    layers = [layer for layer in _dropouts(module) if layer.p != p]
    for layer in layers:
        layer.p = p
    return bool(layers)
