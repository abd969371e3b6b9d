"""Squeeze and excitation. Hu, Shen, Albanie, Sun, Wu 2017, "Squeeze-and-Excitation Networks",
arXiv:1709.01507, sec. 3."""

from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """x~_c = s_c x_c with s = sigmoid(W2 ReLU(W1 z)), z the mean of each channel over the grid (eq. 2 to 4).

    W1 is (channels / reduction, channels). The equations have no biases; the released networks have them.
    """

    def __init__(self, channels: int, reduction: int = 16, bias: bool = True):
        super().__init__()
        inner = max(1, channels // reduction)
        self.fc1 = nn.Conv2d(channels, inner, 1, bias=bias)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(inner, channels, 1, bias=bias)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        z = x.mean((2, 3), keepdim=True)
        scale: Tensor = self.sigmoid(self.fc2(self.relu(self.fc1(z))))
        return x * scale
