"""Whether an engine computes what the network does: its logits against PyTorch's in fp32."""

from typing import NamedTuple

from torch import Tensor

from convatlas.runtime.device import Precision

MAX_DIFFERENCE_FP32 = 1e-3  # as a share of the largest logit
MIN_SAME_CLASS = 0.99  # share of the images
# Two classes whose logits differ by less than this share of the logits' range are a tie, which rounding to
# bf16 may turn
TIE = 0.02


class Parity(NamedTuple):
    """The largest difference as a share of the largest logit, and the share of equal classes."""

    difference: float
    same_class: float
    enough: bool


def check_parity(logits: Tensor, expected: Tensor, precision: Precision) -> Parity:
    """Compare logits (n, classes, ...): in fp32 all; in bf16 the classes, where fp32 has no tie."""
    if logits.shape != expected.shape or not logits.isfinite().all():
        return Parity(float("inf"), 0.0, False)
    difference = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    best = expected.max(1)
    predicted = logits.argmax(1, keepdim=True)
    same_class = float((best.indices == predicted.squeeze(1)).float().mean())
    lost = best.values - expected.gather(1, predicted).squeeze(1)
    same_or_tied = float((lost <= TIE * (best.values - expected.amin(1))).float().mean())
    enough = difference <= MAX_DIFFERENCE_FP32 if precision == "fp32" else same_or_tied >= MIN_SAME_CLASS
    return Parity(difference, same_class, enough)
