"""The deconvolution network: what in an image an activation comes from. Zeiler, Fergus 2013, arXiv:1311.2901, sec. 2.1.

All other activations of the layer are set to zero; then, layer by layer down to the pixels: unpool (each value goes to where its window
had its maximum, the switch recorded on the way up), rectify (negative values are dropped), filter (by the layer's own filters,
transposed). Contrast normalisation is passed over.

Only the rectifiers make this other than a backward pass: the gradient of max pooling is unpooling with switches, that of a convolution
its transposed filters. So it is one, of the network as it stands, in which a rectifier passes on what is positive of the signal from
above, in place of what its own input let through. Branches and sums need no rule of their own, batch norm is the scale of its filters;
what the paper does not have (gates, other activations) passes its gradient.

Unstated: what a place gets that is the maximum of several windows, where windows overlap (ours: the sum).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convatlas.errors import UsageError
from convatlas.visualization.feature_maps import forward_with_maps

RECTIFIERS = (F.relu, torch.relu, Tensor.relu)
IN_PLACE = (F.relu_, torch.relu_, Tensor.relu_)


def deconv_reconstruct(model: nn.Module, images: Tensor, path: str, map: int | Tensor, unit: Tensor | None = None) -> Tensor:
    """One activation of each image projected down to its pixels: (n, c, height, width), positive where a brighter pixel excites it.

    images: (n, c, height, width), standardised. `path`: a module that gives maps. `map`: which of them, one for all images or one for each
    (n,). `unit`: (n, 2), the row and column of the activation; by default each image's strongest of that map. Raises UsageError for a path
    that does not exist or gives no maps, for a map or a unit that does not exist.
    """
    with torch.inference_mode(False), torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        with _DeconvMode():
            maps, _ = forward_with_maps(model, images, path)
        alone = torch.zeros_like(maps)
        at = _places(maps.detach(), path, map, unit)
        alone[at] = maps.detach()[at]
        (signal,) = torch.autograd.grad(maps, images, alone)
    return signal


def _places(maps: Tensor, path: str, map: int | Tensor, unit: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, map, row and column of each chosen activation."""
    n, count, height, width = maps.shape
    every, chosen = torch.arange(n, device=maps.device), torch.as_tensor(map, device=maps.device).expand(n)
    if chosen.min() < 0 or chosen.max() >= count:
        raise UsageError(f"{path} has maps 0 to {count - 1}: there is no map {int(chosen[(chosen < 0) | (chosen >= count)][0])}")
    if unit is None:
        place = maps[every, chosen].flatten(1).argmax(1)
        return every, chosen, place // width, place % width
    unit = unit.to(maps.device)
    if unit.shape != (n, 2) or unit.min() < 0 or (unit >= unit.new_tensor([height, width])).any():
        raise UsageError(f"the maps of {path} are {height}x{width}: expected a row and a column in them for each of {n} images")
    return every, chosen, unit[:, 0], unit[:, 1]


class _DeconvMode(TorchFunctionMode):
    """Inside, rectifiers and contrast normalisation of any network compute what they do and pass down what a deconvolution network does,
    be they modules or functions, in place or not."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in RECTIFIERS or func in IN_PLACE:
            return _replaced(func, _rectified, args, kwargs)
        if func is F.local_response_norm:
            return _replaced(func, _passed, args, kwargs)
        return func(*args, **kwargs)


def _rectified(signal: Tensor) -> Tensor:
    return signal.clamp(min=0)


def _passed(signal: Tensor) -> Tensor:
    return signal


def _replaced(func: Callable[..., Any], downwards: Callable[[Tensor], Tensor], args: Any, kwargs: Any) -> Any:
    """What the function computes, with another way down. In place means: the caller's tensor becomes the result."""
    kwargs = dict(kwargs)
    x, args = (args[0], args[1:]) if args else (kwargs.pop("input"), ())
    in_place = func in IN_PLACE or kwargs.pop("inplace", False)
    result = _Replaced.apply(x.clone() if in_place else x, func, downwards, args, kwargs)  # type: ignore[no-untyped-call]
    return x.copy_(result) if in_place else result


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, func: Callable[..., Any], downwards: Callable[[Tensor], Tensor], args: Any, kwargs: Any) -> Any:
        ctx.downwards = downwards
        return func(x, *args, **kwargs)

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        return ctx.downwards(signals[0]), None, None, None, None
