"""Channel shuffle. Zhang, Zhou, Lin, Sun 2017, "ShuffleNet", arXiv:1707.01083, sec. 3.1."""

from torch import Tensor, nn


class ChannelShuffle(nn.Module):
    """g groups of n channels: reshape to (g, n), transpose, flatten. (n, c, h, w) -> the same shape; c a multiple of g."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
