"""The normalisation after the activation instead of before it."""

from torch import nn

from convatlas.analysis.trace.modules import ModuleCall
from convatlas.errors import UsageError
from convatlas.models.edits.activations import NAMES
from convatlas.models.edits.norms import NORMS
from convatlas.models.edits.record import EditRecord
from convatlas.models.edits.target import Target


class NormAfterActivation(EditRecord, frozen=True, kw_only=True, tag=True):
    """Each normalisation whose output an activation takes changes places with it. One whose output is added
    to a shortcut first stays."""

    needs_forward = True

    def change(self, target: Target) -> bool:
        layers = dict(target.layers())
        producers = {operation.index: call for call, operation in target.operations()}
        pairs = []
        for call in target.calls:
            if type(layers.get(call.path)) in NAMES:
                norm = producers.get(next((o.sources[0] for o in call.operations if o.sources), -1))
                if norm is not None and type(layers.get(norm.path)) in NORMS:
                    pairs.append((norm, call))
        for norm, activation in pairs:
            _check_runs_once(norm, activation)
        replacements: dict[nn.Module, nn.Module] = {}
        for norm, activation in pairs:
            layer = layers[activation.path]
            if hasattr(layer, "inplace"):
                layer.inplace = False  # type: ignore[assignment]  # others may read what the norm read
            replacements |= {layers[norm.path]: layer, layer: layers[norm.path]}
        target.replace(replacements)
        return bool(pairs)

    def nothing(self, target: Target) -> str:
        return "no activation takes the output of a normalisation"


def _check_runs_once(*calls: ModuleCall) -> None:
    for call in calls:
        if call.num_calls > 1:
            raise UsageError(
                f"{call.path} runs {call.num_calls} times in a forward, so it cannot change places: give "
                "each use a module of its own"
            )
