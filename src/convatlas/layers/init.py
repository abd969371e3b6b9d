"""How the papers draw first weights, for `module.apply`: of convolutions and linear layers alone, whose biases become zero."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

Initialise = Callable[[nn.Module], None]


def _set(module: nn.Module, draw: Callable[[Tensor], object]) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        draw(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def gaussian(std: float) -> Initialise:
    """Zero mean and this standard deviation."""
    return partial(_set, draw=partial(nn.init.normal_, std=std))


def truncated(std: float) -> Initialise:
    """Gaussians redrawn beyond two standard deviations, as TensorFlow's networks begin."""
    return partial(_set, draw=partial(nn.init.trunc_normal_, std=std, a=-2 * std, b=2 * std))


def glorot(module: nn.Module) -> None:
    """Glorot and Bengio 2010, AISTATS, eq. 16: uniform within sqrt(6 / (fan-in + fan-out))."""
    _set(module, nn.init.xavier_uniform_)


def he(module: nn.Module) -> None:
    """He et al. 2015, arXiv:1502.01852, eq. 10: Gaussian of standard deviation sqrt(2 / fan-in)."""
    _set(module, partial(nn.init.kaiming_normal_, mode="fan_in", nonlinearity="relu"))


def he_over_fan_out(module: nn.Module) -> None:
    """As torchvision's and timm's residual networks begin: convolutions alone, sqrt(2 / fan-out); linear layers stay torch's."""
    if isinstance(module, nn.Conv2d):
        _set(module, partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"))
