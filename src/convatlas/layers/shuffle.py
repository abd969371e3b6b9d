"""Channel shuffle. Zhang, Zhou, Lin, Sun 2017, "ShuffleNet", arXiv:1707.01083, sec. 3.1."""

from torch import Tensor, nn


class ChannelShuffle(nn.Module):
    """Reshape g x n channels to (g, n), transpose and flatten them, so that each group of the next
    convolution has channels of every group. The shape stays the same."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.reshape(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
