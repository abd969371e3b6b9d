"""Whether an engine answers as the network does: logits against those of PyTorch in fp32 on the same images."""

from typing import NamedTuple

from torch import Tensor

from convatlas.runtime.device import Precision

MAX_DIFFERENCE_FP32 = 1e-3  # the largest difference, in parts of the largest logit
MIN_SAME_CLASS = 0.99  # of the answers have the same class
TIE = 0.02  # classes whose logits are nearer than that, in parts of the logits' range, may change places by rounding to bf16


class Parity(NamedTuple):
    """The largest difference in parts of the largest logit, and the share of the answers with the same class."""

    difference: float
    same_class: float
    enough: bool


def check_parity(found: Tensor, expected: Tensor, precision: Precision) -> Parity:
    """Logits (n, classes, ...). In fp32 every logit counts; in bf16 the classes do, unless fp32 itself can hardly tell them apart."""
    if found.shape != expected.shape or not found.isfinite().all():
        return Parity(float("inf"), 0.0, False)
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    best, chosen = expected.max(1), found.argmax(1, keepdim=True)
    lost = best.values - expected.gather(1, chosen).squeeze(1)
    same = float((best.indices == chosen.squeeze(1)).float().mean())
    close = float((lost <= TIE * (best.values - expected.amin(1))).float().mean())
    return Parity(difference, same, difference <= MAX_DIFFERENCE_FP32 if precision == "fp32" else close >= MIN_SAME_CLASS)
