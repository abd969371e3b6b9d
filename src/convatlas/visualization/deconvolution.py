"""The deconvolutional network: the image pattern that causes an activation. Zeiler, Fergus 2013,
arXiv:1311.2901, sec. 2.1.

All other activations of the layer are set to zero. Then, layer by layer down to the pixels, the signal is
unpooled (each value goes to the position where its pooling window had its maximum, recorded in the forward
pass), rectified (negative values become zero) and filtered (by the layer's filters, transposed). Contrast
normalisation passes the signal unchanged.

Only the rectifiers differ from a backward pass: the gradient of max pooling is unpooling to the recorded
positions, that of a convolution is its transposed filters. This implementation is therefore a backward pass
of the unmodified network in which a rectifier passes the positive part of the signal from above, instead of
the signal where its own input was positive. Branches and sums need no rule, and batch norm scales its
filters. Operations that the paper does not have (gates, other activations) pass their gradient.

Unstated: the value at a position that is the maximum of several overlapping windows (ours: the sum).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convatlas.errors import UsageError
from convatlas.visualization.feature_maps import check_images, forward_with_maps

RECTIFIERS = (F.relu, torch.relu, Tensor.relu)
IN_PLACE_RECTIFIERS = (F.relu_, torch.relu_, Tensor.relu_)


def deconv_reconstruct(
    model: nn.Module, images: Tensor, path: str, map: int | Tensor, unit: Tensor | None = None
) -> Tensor:
    """Project one activation of each image down to its pixels: (n, c, height, width). A pixel is positive
    where a higher value raises the activation.

    images: (n, c, height, width), normalised. path: a module whose output is feature maps. map: the index of
    the map, one for all images or (n,). unit: (n, 2), row and column of the activation; by default each
    image's strongest activation of the map.

    Raises UsageError for a path that does not exist or whose output is no feature maps, and for a map or a
    unit that does not exist.
    """
    check_images(model, images)
    with torch.inference_mode(False), torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        with _DeconvMode():
            maps, _ = forward_with_maps(model, images, path)
        activations = maps.detach()
        indices = _activation_indices(activations, path, map, unit)
        signal = torch.zeros_like(activations)
        signal[indices] = activations[indices]
        (reconstruction,) = torch.autograd.grad(maps, images, signal)
    return reconstruction


def _activation_indices(
    maps: Tensor, path: str, map: int | Tensor, unit: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, map, row and column of each chosen activation, (n,) each."""
    n, num_maps, height, width = maps.shape
    image_indices = torch.arange(n, device=maps.device)
    map_indices = torch.as_tensor(map, device=maps.device).expand(n)
    invalid = (map_indices < 0) | (map_indices >= num_maps)
    if invalid.any():
        raise UsageError(
            f"{path} has maps 0 to {num_maps - 1}: there is no map {int(map_indices[invalid][0])}"
        )
    if unit is None:
        strongest = maps[image_indices, map_indices].flatten(1).argmax(1)
        return image_indices, map_indices, strongest // width, strongest % width
    unit = unit.to(maps.device)
    if unit.shape != (n, 2) or unit.min() < 0 or (unit >= unit.new_tensor([height, width])).any():
        raise UsageError(
            f"the maps of {path} are {height}x{width}: "
            f"expected a row and a column in them for each of {n} images"
        )
    return image_indices, map_indices, unit[:, 0], unit[:, 1]


class _DeconvMode(TorchFunctionMode):
    """Gives the rectifiers and the contrast normalisation of any network the backward rule of a
    deconvolutional network, whether they are modules or functions, in place or not. Their outputs do not
    change."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in RECTIFIERS or func in IN_PLACE_RECTIFIERS:
            return _call_with_backward(func, _rectify, args, kwargs)
        if func is F.local_response_norm:
            return _call_with_backward(func, _pass_through, args, kwargs)
        return func(*args, **kwargs)


def _rectify(signal: Tensor) -> Tensor:
    return signal.clamp(min=0)


def _pass_through(signal: Tensor) -> Tensor:
    return signal


def _call_with_backward(
    func: Callable[..., Any], backward: Callable[[Tensor], Tensor], args: Any, kwargs: Any
) -> Any:
    """Call the function with another backward rule. An in-place function writes its result into the caller's
    tensor."""
    kwargs = dict(kwargs)
    x, args = (args[0], args[1:]) if args else (kwargs.pop("input"), ())
    in_place = func in IN_PLACE_RECTIFIERS or kwargs.pop("inplace", False)
    x_in = x.clone() if in_place else x
    result = _FunctionWithBackward.apply(x_in, func, backward, args, kwargs)  # type: ignore[no-untyped-call]
    return x.copy_(result) if in_place else result


class _FunctionWithBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        func: Callable[..., Any],
        backward: Callable[[Tensor], Tensor],
        args: Any,
        kwargs: Any,
    ) -> Any:
        ctx.backward_rule = backward
        return func(x, *args, **kwargs)

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        return ctx.backward_rule(signals[0]), None, None, None, None
