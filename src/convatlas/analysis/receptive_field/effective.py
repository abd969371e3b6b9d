"""The effective receptive field: how strongly each pixel moves a unit (Luo et al. 2016, arXiv:1701.04128, sec. 2)."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from convatlas.errors import UserError, unknown_name


def effective_field(
    model: nn.Module, input: tuple[int, int, int], paths: Sequence[str], draws: int = 4, seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """For the output of each module at `paths`: the mean absolute gradient of its centre unit by every pixel, (h, w), at most 1.

    `input`: (channels, h, w). The gradient starts as 1 at the unit in the middle of every map; the images are Gaussian noise, `draws` of
    them; batch norm uses the statistics of such a batch, so that the signal keeps its size. Works on a copy of the model, on its device.
    Raises UsageError for a path that does not exist, UserError for an output without a gradient by the image.
    """
    modules = dict(model.named_modules())
    for path in paths:
        if path not in modules:
            raise unknown_name("layer", path, modules)
    twin = copy.deepcopy(model)
    device = next((p.device for p in twin.parameters()), torch.device("cpu"))
    images = torch.randn(draws, *input, generator=torch.Generator().manual_seed(seed)).to(device)
    _settle(twin, images)
    seen: dict[str, Tensor] = {}
    handles = [twin.get_submodule(path).register_forward_hook(_keep(seen, path)) for path in paths]
    try:
        images.requires_grad_()
        twin(images)
    finally:
        for handle in handles:
            handle.remove()
    return {path: _field(seen.get(path), images, path) for path in paths}


def _field(out: Tensor | None, images: Tensor, path: str) -> NDArray[np.float32]:
    if out is None or not out.requires_grad or out.dim() != 4:
        raise UserError(f"{path} gives no map that the image moves: no effective receptive field")
    seed = torch.zeros_like(out)
    seed[..., out.shape[-2] // 2, out.shape[-1] // 2] = 1
    (gradient,) = torch.autograd.grad(out, images, seed, retain_graph=True)
    strength = gradient.abs().mean((0, 1))
    field: NDArray[np.float32] = (strength / strength.max().clamp_min(torch.finfo(strength.dtype).tiny)).cpu().numpy()
    return field


def _keep(seen: dict[str, Tensor], path: str) -> Any:
    def hook(_: nn.Module, args: Any, out: Any) -> None:
        seen[path] = next(t for t in tree_leaves(out) if isinstance(t, Tensor))

    return hook


def _settle(model: nn.Module, images: Tensor) -> None:
    """Evaluation mode, with the batch statistics of these images."""
    model.eval()
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model(images)
    model.eval()
