"""The residual unit of "Identity Mappings in Deep Residual Networks", and its shortcuts. He et al. 2016,
arXiv:1603.05027.
"""

from torch import Tensor, nn


class Sum(nn.Module):
    """h(x) + F(x), each times a constant (sec. 3.1: constant scaling)."""

    def __init__(self, shortcut_scale: float = 1.0, function_scale: float = 1.0):
        super().__init__()
        self.shortcut_scale = shortcut_scale
        self.function_scale = function_scale

    def forward(self, shortcut: Tensor, function: Tensor) -> Tensor:
        if self.shortcut_scale == self.function_scale == 1:
            return shortcut + function
        return self.shortcut_scale * shortcut + self.function_scale * function

    def extra_repr(self) -> str:
        return f"shortcut_scale={self.shortcut_scale}, function_scale={self.function_scale}"


class Gated(nn.Module):
    """(1 - g) h(x) + g F(x) with g = sigmoid(W_g x + b_g), a 1x1 convolution (sec. 3.1: exclusive gating).

    With `shortcut_only` it is (1 - g) h(x) + F(x).
    """

    def __init__(self, channels: int, bias: float, shortcut_only: bool):
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)
        self.sigmoid = nn.Sigmoid()
        self.bias = bias
        self.shortcut_only = shortcut_only

    def forward(self, shortcut: Tensor, function: Tensor) -> Tensor:
        g: Tensor = self.sigmoid(self.gate(shortcut))
        return (1 - g) * shortcut + (function if self.shortcut_only else g * function)

    def init_bias(self) -> None:
        nn.init.constant_(self.gate.bias, self.bias)  # type: ignore[arg-type]


class Unit(nn.Module):
    """y = after(combine(h(x), F(before(x)))); with `activate_shortcut` the shortcut is h(before(x))."""

    def __init__(
        self,
        before: nn.Module,
        function: nn.Module,
        shortcut: nn.Module,
        combine: nn.Module,
        after: nn.Module,
        activate_shortcut: bool,
    ):
        super().__init__()
        self.before = before
        self.function = function
        self.shortcut = shortcut
        self.combine = combine
        self.after = after
        self.activate_shortcut = activate_shortcut

    def forward(self, x: Tensor) -> Tensor:
        activated = self.before(x)
        shortcut = self.shortcut(activated if self.activate_shortcut else x)
        y: Tensor = self.after(self.combine(shortcut, self.function(activated)))
        return y
