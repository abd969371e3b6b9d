"""Global pooling and one linear layer in place of fully connected layers."""

from collections import OrderedDict
from typing import Literal

from torch import nn

from convatlas.errors import UsageError
from convatlas.models.edits.activations import NAMES
from convatlas.models.edits.record import EditRecord
from convatlas.models.edits.target import Target

GLOBAL_POOLINGS = {"average": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}
_HIDDEN = (nn.Linear, nn.BatchNorm1d, nn.LayerNorm, *NAMES)


class GlobalPoolingHead(EditRecord, frozen=True, kw_only=True, tag=True):
    """The maps are averaged over their grid, or the maximum of each taken, and one linear layer classifies
    the result (arXiv:1312.4400, sec. 3.2); hidden fully connected layers go, and of several dropouts the last
    remains. A head that is so already is refused, since it would touch nothing.

    It takes modules whose maps go through an nn.Flatten, and that end in an nn.Linear.
    """

    needs_forward = True

    kind: Literal["average", "max"] = "average"

    def change(self, target: Target) -> bool:
        layers = dict(target.layers())
        leaves = [call for call in target.calls if call.path in layers and call.is_leaf]
        classifier = leaves[-1].path if leaves else ""
        flattens = [i for i, call in enumerate(leaves) if type(layers[call.path]) is nn.Flatten]
        if type(layers.get(classifier)) is not nn.Linear or not flattens or not flattens[-1]:
            raise UsageError("its maps do not go through an nn.Flatten to an nn.Linear that classifies")
        flatten = flattens[-1]
        before = leaves[flatten - 1]
        shape = before.output_shapes[0]
        if len(shape) != 4:
            raise UsageError(f"{leaves[flatten].path} takes no maps: {before.path} gives {tuple(shape[1:])}")
        pooled = self._pool(target, layers[before.path], layers[leaves[flatten].path])
        between = [layers[call.path] for call in leaves[flatten + 1 : -1]]
        hidden = [layer for layer in between if type(layer) in _HIDDEN]
        hidden += [layer for layer in between if isinstance(layer, nn.Dropout)][:-1] if hidden else []
        target.replace({layer: nn.Identity() for layer in hidden})
        linear = layers[classifier]
        assert isinstance(linear, nn.Linear)
        if linear.in_features != shape[1]:
            target.replace({linear: target.build(lambda: nn.Linear(shape[1], linear.out_features))})
        return pooled or bool(hidden)

    def _pool(self, target: Target, before: nn.Module, flatten: nn.Module) -> bool:
        """Pool the maps before they are flattened; False where that is so already."""
        pool = GLOBAL_POOLINGS[self.kind](1)
        if type(before) not in GLOBAL_POOLINGS.values():
            target.replace({flatten: nn.Sequential(OrderedDict(pool=pool, flatten=flatten))})
            return True
        if type(before) is type(pool) and getattr(before, "output_size", None) in (1, (1, 1)):
            return False
        target.replace({before: pool})
        return True

    def nothing(self, target: Target) -> str:
        return f"its head is global {self.kind} pooling and one linear layer already"
