"""How the gradients at two inputs of an untrained network correlate. Balduzzi, Frean, Leary, Lewis, Ma,
McWilliams 2017, "The Shattered Gradients Problem: If resnets are the answer, then what is the question?",
arXiv:1702.08591, Theorems 1 to 3.

Networks of fully connected layers of `width` units with rectifiers and He's weights, and Gaussian inputs.
With `independent_masks` it is tossed for each unit, layer and input whether the unit is active, as the
theorems assume; otherwise the network itself says so."""

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["plain", "residual", "residual with batch norm"]
NUM_INPUTS = 64


def gradient_correlation(
    kind: Kind, depth: int, seed: int, width: int = 200, independent_masks: bool = False
) -> dict[str, float]:
    """`correlation`: the mean over pairs of inputs of the inner product of the gradients of one random
    output, divided by their mean squared norm."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(NUM_INPUTS, width)
    slopes = []  # of each layer's rectifier and normalisation at every input
    weights = []
    for _ in range(depth):
        weight = normal(width, width) * (2 / width) ** 0.5
        scale = torch.ones(width, dtype=torch.float64)
        entering = x
        if kind == "residual with batch norm":
            scale = 1 / (x.var(0, correction=0) + 1e-12).sqrt()
            entering = (x - x.mean(0)) * scale
        # a plain layer's rectifier follows its weights, a residual one's precedes them
        outputs = entering @ weight.T if kind == "plain" else entering
        if independent_masks:
            active = torch.rand(outputs.shape, generator=generator, dtype=torch.float64) < 0.5
        else:
            active = outputs > 0
        rectified = outputs * active
        x = rectified if kind == "plain" else x + rectified @ weight.T
        weights.append(weight)
        slopes.append(active * scale)
    gradient = normal(width).expand(NUM_INPUTS, width)
    for weight, slope in zip(reversed(weights), reversed(slopes), strict=True):
        through = (gradient * slope) @ weight if kind == "plain" else (gradient @ weight) * slope
        gradient = through if kind == "plain" else gradient + through
    products = gradient @ gradient.T
    squared_norms = products.diagonal()
    pairs = (products.sum() - squared_norms.sum()) / (NUM_INPUTS * (NUM_INPUTS - 1))
    correlation = float(pairs / squared_norms.mean())
    return {"correlation": correlation}
