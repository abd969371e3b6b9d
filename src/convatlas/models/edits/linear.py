"""A linear layer after a module."""

from collections import OrderedDict

from torch import nn

from convatlas.errors import UsageError, unknown_name
from convatlas.models.edits.record import EditRecord
from convatlas.models.edits.target import Target


class LinearAfter(EditRecord, frozen=True, kw_only=True, tag=True):
    """A linear layer of as many channels after the module at `path`, without an activation: a 1x1 convolution
    on maps. The module becomes `path.layer`, the linear layer is `path.linear`."""

    needs_forward = True

    path: str

    def change(self, target: Target) -> bool:
        layers = dict(target.layers())
        if self.path not in layers:
            raise unknown_name(f"module of {target.name}", self.path, layers)
        call = next((call for call in target.calls if call.path == self.path), None)
        shape = call.output_shapes[0] if call is not None and call.output_shapes else ()
        if len(shape) not in (2, 4):
            raise UsageError(f"{self.path} gives no maps and no vector in a forward: choose another module")
        channels = shape[1]
        linear = target.build(
            lambda: nn.Conv2d(channels, channels, 1) if len(shape) == 4 else nn.Linear(channels, channels)
        )
        layer = layers[self.path]
        target.replace({layer: nn.Sequential(OrderedDict(layer=layer, linear=linear))})
        return True

    def nothing(self, target: Target) -> str:
        return ""
