"""Intermediate outputs of any module in evaluation, for a notebook or a script."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.models.network import eval_mode
from convatlas.visualization.feature_maps import check_images


def features(model: nn.Module, images: Tensor, paths: Sequence[str] = ("penultimate",)) -> dict[str, Tensor]:
    """The outputs of the modules at `paths` (as in `model.named_modules()`) for images (n, c, h, w),
    normalised, in evaluation mode and without gradients; the module stays as it was.

    A module that returns several values gives its entry `logits` or `out`, else its first tensor. In networks
    of the atlas "penultimate" is the input of the last layer.

    Raises UsageError for a path that does not exist, naming the nearest, and for a module without a tensor in
    its output; UserError for a module that does not run.
    """
    check_images(model, images)
    with eval_mode(model), torch.no_grad():
        return models.features(model, images, paths)
