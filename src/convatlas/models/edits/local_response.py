"""No local response normalisation."""

from torch import nn

from convatlas.layers.local_response import LocalResponseNorm
from convatlas.models.edits.record import EditRecord
from convatlas.models.edits.target import Target


class RemoveLRN(EditRecord, frozen=True, kw_only=True, tag=True):
    """No local response normalisation, ours or torch's."""

    def change(self, target: Target) -> bool:
        norms = target.layers(LocalResponseNorm, nn.LocalResponseNorm)
        target.replace({norm: nn.Identity() for _, norm in norms})
        return bool(norms)

    @property
    def excluded_operators(self) -> frozenset[str]:
        return frozenset({"avg_pool3d"})

    def nothing(self, target: Target) -> str:
        return "it has no local response normalisation"
