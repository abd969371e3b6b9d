"""Channel shuffle. Zhang, Zhou, Lin, Sun 2017, "ShuffleNet", arXiv:1707.01083, sec. 3.1."""

from torch import Tensor, nn


class ChannelShuffle(nn.Module):
    """g x n channels are reshaped to (g, n), transposed and flattened, so that each later group sees every earlier one. Same shape."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.reshape(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
