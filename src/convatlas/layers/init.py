"""The papers' initialisations, for `module.apply`. They set convolutions and linear layers only; biases
become zero."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from convatlas.layers.weight_norm import WeightNormConv2d

InitFn = Callable[[nn.Module], None]


def _init_module(module: nn.Module, init_weight: Callable[[Tensor], object]) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        init_weight(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, WeightNormConv2d):
            module.reset_gain()


def normal(std: float) -> InitFn:
    """Gaussians of zero mean and this standard deviation."""
    return partial(_init_module, init_weight=partial(nn.init.normal_, std=std))


def truncated_normal(std: float) -> InitFn:
    """Gaussians that are redrawn beyond two standard deviations, as in TensorFlow's networks."""
    return partial(_init_module, init_weight=partial(nn.init.trunc_normal_, std=std, a=-2 * std, b=2 * std))


def glorot_uniform(module: nn.Module) -> None:
    """Glorot and Bengio 2010, AISTATS, eq. 16: uniform within sqrt(6 / (fan-in + fan-out))."""
    _init_module(module, nn.init.xavier_uniform_)


def he_normal(module: nn.Module) -> None:
    """He et al. 2015, arXiv:1502.01852, eq. 10: Gaussian of standard deviation sqrt(2 / fan-in)."""
    _init_module(module, partial(nn.init.kaiming_normal_, mode="fan_in", nonlinearity="relu"))


def he_normal_fan_out(module: nn.Module) -> None:
    """The initialisation of torchvision's and timm's residual networks: Gaussian of standard deviation
    sqrt(2 / fan-out) for convolutions; linear layers keep torch's default."""
    if isinstance(module, nn.Conv2d):
        _init_module(module, partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"))
