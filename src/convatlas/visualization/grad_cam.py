"""Grad-CAM: the regions of an image that raise the score of a class. Selvaraju et al. 2016, arXiv:1610.02391,
sec. 3.

    alpha_k = 1/Z  sum over i, j of  d y / d A_k(i, j)        (1)
    L = ReLU( sum over k of  alpha_k A_k )                    (2)

A_k are the feature maps of a layer, Z is the number of their positions, y the class's score before the
softmax.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.visualization.feature_maps import check_images, forward_with_maps, last_conv_layer


def grad_cam(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | Sequence[int] | int,
    path: str | None = None,
    region: Tensor | None = None,
) -> Tensor:
    """Grad-CAM of each image for its class: (n, h, w), at least 0, at the size of the layer's feature maps.

    images: (n, c, height, width), normalised. classes: (n,), or one for all images. path: a module whose
    output is feature maps; by default the last convolutional layer. The result is zero everywhere if nothing
    in the layer raises the class's score. region: of a network that labels pixels, (rows, columns) or (n,
    rows, columns), the weights with which the class's map is summed to its score: 1 at a pixel or in a box
    and 0 elsewhere; by default 1 where the class is predicted.

    Raises UsageError for a path that does not exist or whose output is no feature maps, for a class that does
    not exist, and for a region of another size than the map; UserError for a network without convolutions.
    """
    check_images(model, images)
    if path is None:
        path = last_conv_layer(model, (images.shape[1], images.shape[2], images.shape[3]))
    with torch.inference_mode(False), torch.enable_grad():
        maps, logits = forward_with_maps(model, images.detach().clone().requires_grad_(), path)
        n, num_classes = logits.shape[:2]
        classes = torch.as_tensor(classes)
        if not classes.dim():
            classes = classes.expand(n)
        if classes.shape != (n,) or classes.min() < 0 or classes.max() >= num_classes:
            raise UsageError(f"Grad-CAM needs a class from 0 to {num_classes - 1} for each of the {n} images")
        scores = logits[range(n), classes.tolist()]
        if logits.dim() == 4:
            scores = _score_region(logits, scores, classes.to(logits.device), region)
        # The sum's gradient is that of each score: no image's score depends on another image's maps.
        (gradient,) = torch.autograd.grad(scores.sum(), maps)
    alpha = gradient.mean((2, 3), keepdim=True)
    return (alpha * maps.detach()).sum(1).relu()


def _score_region(logits: Tensor, maps: Tensor, classes: Tensor, region: Tensor | None) -> Tensor:
    """(n,): the maps (n, rows, columns) of the images' classes, summed over a region."""
    if region is None:
        region = logits.argmax(1) == classes[:, None, None]
    elif region.shape not in (maps.shape, maps.shape[1:]):
        raise UsageError(
            f"a region should have the size of the map of the class, {tuple(maps.shape[1:])}, not "
            f"{tuple(region.shape)}"
        )
    scores: Tensor = (maps * region.to(maps)).sum((1, 2))
    return scores


def resize_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize Grad-CAM maps to the images' size, bilinearly, as in the paper: (n, h, w) -> (n, *size)."""
    return F.interpolate(maps[:, None], size, mode="bilinear")[:, 0]
