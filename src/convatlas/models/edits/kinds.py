"""The closed set of edits."""

from convatlas.models.edits.activations import SwapActivation
from convatlas.models.edits.dropout import RemoveDropout, SetDropout
from convatlas.models.edits.head import GlobalPoolingHead
from convatlas.models.edits.linear import LinearAfter
from convatlas.models.edits.local_response import RemoveLRN
from convatlas.models.edits.norm_order import NormAfterActivation
from convatlas.models.edits.norms import RemoveNorm, SwapNorm
from convatlas.models.edits.pooling import SwapPooling

Edit = (
    SwapActivation
    | SwapNorm
    | RemoveNorm
    | NormAfterActivation
    | SwapPooling
    | RemoveLRN
    | SetDropout
    | RemoveDropout
    | LinearAfter
    | GlobalPoolingHead
)
EDITS: dict[str, type[Edit]] = {
    kind.__name__: kind
    for kind in (
        SwapActivation,
        SwapNorm,
        RemoveNorm,
        NormAfterActivation,
        SwapPooling,
        RemoveLRN,
        SetDropout,
        RemoveDropout,
        LinearAfter,
        GlobalPoolingHead,
    )
}
