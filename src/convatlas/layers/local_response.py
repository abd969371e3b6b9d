"""Local response normalisation. Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep CNNs",
sec. 3.3."""

import torch.nn.functional as F
from torch import Tensor, nn


class LocalResponseNorm(nn.Module):
    """b_i = a_i / (k + alpha * sum of a_j^2 over the n channels around i)^beta.

    Channels beyond the ends are left out. torch and Caffe divide the sum by n, the paper does not: their
    alpha is n times the paper's.
    """

    def __init__(self, k: float = 2.0, n: int = 5, alpha: float = 1e-4, beta: float = 0.75):
        super().__init__()
        self.k = k
        self.n = n
        self.alpha = alpha
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return F.local_response_norm(x, self.n, self.alpha * self.n, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"k={self.k}, n={self.n}, alpha={self.alpha}, beta={self.beta}"
