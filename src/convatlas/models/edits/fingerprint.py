"""What a network computes, as a hash of the operators and shapes of one forward."""

from torch import nn

from convatlas.models.edits.target import Target
from convatlas.storage.records import record_sha256

# By the operator's name, without the marks of its variants. Operators that only move or add values are left
# out: their decomposition differs between versions of torch
_KINDS = {
    "convolution": "convolution",
    "addmm": "linear",
    "mm": "linear",
    "linear": "linear",
    "avg_pool2d": "average",
    "_adaptive_avg_pool2d": "average",
    "adaptive_avg_pool2d": "average",
    "mean": "average",
    "max_pool2d": "max",
    "max_pool2d_with_indices": "max",
    "adaptive_max_pool2d": "max",
    "slice": "slice",
}
_ACTIVATIONS = frozenset(
    ["sigmoid", "tanh", "relu", "leaky_relu", "_prelu_kernel", "elu", "hardtanh", "gelu", "silu", "hardswish"]
)
_NORMS = ("batch_norm", "group_norm", "layer_norm")


def fingerprint(module: nn.Module, input_shape: tuple[int, ...]) -> str:
    """SHA-256 of the operators that a forward on one image (channels, height, width) runs, each with the
    shape of its output. Convolutions, linear layers, normalisations, activations, poolings and slices
    count."""
    target = Target(module, input_shape)
    operations = ((_kind(o.name.removesuffix("_")), o.output_shape) for _, o in target.operations())
    return record_sha256([[kind, list(shape)] for kind, shape in operations if kind])


def _kind(operator: str) -> str:
    if operator in _ACTIVATIONS:
        return operator
    return _KINDS.get(operator) or next((norm for norm in _NORMS if norm in operator), "")
