"""The effective receptive field: how strongly each pixel influences a unit.

Luo et al. 2016, arXiv:1701.04128, sec. 2.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from convatlas.errors import UserError, unknown_name


def effective_receptive_fields(
    model: nn.Module,
    input: tuple[int, int, int],
    paths: Sequence[str],
    num_images: int = 4,
    seed: int = 0,
) -> dict[str, NDArray[np.float32]]:
    """The effective receptive field of the centre unit of each module's output, by path.

    A field (h, w) is the mean absolute gradient of the unit by each pixel, divided by its maximum, so that it
    lies in [0, 1]. The gradient starts as 1 at the centre unit of every feature map. The images are
    `num_images` of Gaussian noise, each of shape `input` (channels, h, w). Batch norm uses the statistics of
    this batch, so that activations keep their scale. Works on a copy of the model, on the model's device.

    Raises UsageError for a path that does not exist, UserError for an output without a gradient by the image.
    """
    modules = dict(model.named_modules())
    for path in paths:
        if path not in modules:
            raise unknown_name("layer", path, modules)
    model = copy.deepcopy(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    images = torch.randn(num_images, *input, generator=torch.Generator().manual_seed(seed)).to(device)
    _set_batch_statistics(model, images)
    outputs: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(path).register_forward_hook(_store_output(outputs, path)) for path in paths
    ]
    try:
        images.requires_grad_()
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {path: _gradient_magnitude(outputs.get(path), images, path) for path in paths}


def _gradient_magnitude(output: Tensor | None, images: Tensor, path: str) -> NDArray[np.float32]:
    if output is None or not output.requires_grad or output.dim() != 4:
        raise UserError(f"{path} has no feature map that depends on the image: no effective receptive field")
    start = torch.zeros_like(output)
    start[..., output.shape[-2] // 2, output.shape[-1] // 2] = 1
    (gradient,) = torch.autograd.grad(output, images, start, retain_graph=True)
    magnitude = gradient.abs().mean((0, 1))
    smallest = torch.finfo(magnitude.dtype).tiny  # against division by 0
    field: NDArray[np.float32] = (magnitude / magnitude.max().clamp_min(smallest)).cpu().numpy()
    return field


def _store_output(outputs: dict[str, Tensor], path: str) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        outputs[path] = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))

    return hook


def _set_batch_statistics(model: nn.Module, images: Tensor) -> None:
    """Switch to evaluation mode, with the batch statistics of these images as the running statistics."""
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model(images)
    model.eval()
