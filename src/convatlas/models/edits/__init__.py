"""Edits: records that change a network, or any other module, before it is trained.

model = ca.create_model("alexnet", edits=[ca.edits.SwapActivation(to="tanh")])
"""

from convatlas.models.edits.activations import SwapActivation
from convatlas.models.edits.apply import apply
from convatlas.models.edits.dropout import RemoveDropout, SetDropout
from convatlas.models.edits.fingerprint import fingerprint
from convatlas.models.edits.head import GlobalPoolingHead
from convatlas.models.edits.kinds import EDITS, Edit
from convatlas.models.edits.linear import LinearAfter
from convatlas.models.edits.local_response import RemoveLRN
from convatlas.models.edits.norm_order import NormAfterActivation
from convatlas.models.edits.norms import RemoveNorm, SwapNorm
from convatlas.models.edits.parse import parse_edit
from convatlas.models.edits.pooling import SwapPooling

__all__ = [
    "EDITS",
    "Edit",
    "GlobalPoolingHead",
    "LinearAfter",
    "NormAfterActivation",
    "RemoveDropout",
    "RemoveLRN",
    "RemoveNorm",
    "SetDropout",
    "SwapActivation",
    "SwapNorm",
    "SwapPooling",
    "apply",
    "fingerprint",
    "parse_edit",
]
