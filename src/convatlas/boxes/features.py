"""The features of regions by any network of the atlas. arXiv:1311.2524, sec. 2.1 and appendix C (pool5)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from convatlas import models
from convatlas.boxes.arrays import Values
from convatlas.boxes.proposals import Pixels
from convatlas.boxes.warp import CONTEXT, warp
from convatlas.classifier import Classifier
from convatlas.errors import UsageError

GRID = 6  # of AlexNet's pool5
BATCH = 32  # regions that go through the network at once: maps of more leave a core's cache


class RegionFeatures:
    """The feature maps of warped regions, flattened: boxes (n, 4) of an image -> (n, dimension), float32.

    `path` is the layer, by default the last that gives maps: pool5 in AlexNet, ZFNet and VGG. Maps of more
    than `grid` positions a side are averaged to `grid` by `grid`, which bounds the dimension of networks
    whose last maps are large. Missing pixels are the mean that the classifier subtracts.
    """

    def __init__(
        self,
        classifier: Classifier,
        path: str | None = None,
        context: int = CONTEXT,
        grid: int = GRID,
        batch: int = BATCH,
    ):
        if grid < 1 or batch < 1:
            raise UsageError("grid and batch of region features should be 1 or more")
        if not 0 <= 2 * context < min(classifier.metadata.preprocessing.shape[1:]):
            height, width = classifier.metadata.preprocessing.shape[1:]
            raise UsageError(
                f"context is {context} pixels a side: the network's {height}x{width} leaves no room for "
                "a region"
            )
        self.classifier = classifier
        self.context = context
        self.grid = grid
        self.batch = batch
        channels, *self.size = classifier.metadata.preprocessing.shape
        mean = classifier.normalizer.mean.float().cpu()
        mean = mean.expand(channels, *mean.shape[1:]).mean((1, 2)) * 255
        self.fill = tuple(mean.round().clamp(0, 255).to(torch.int64).tolist())
        self.path = path or last_maps(classifier)
        self.dimension = self.of_warped(torch.zeros(1, channels, *self.size, dtype=torch.uint8)).shape[1]

    def __call__(self, pixels: Pixels, boxes: Values) -> NDArray[np.float32]:
        """pixels (height, width, channels), uint8, with the classifier's channels; boxes (n, 4): `warp`'s."""
        return self.of_warped(self.warp(pixels, boxes))

    def warp(self, pixels: Pixels, boxes: Values) -> Tensor:
        """The regions as the network takes them: (n, channels, *size), uint8."""
        return warp(pixels, boxes, (self.size[0], self.size[1]), self.context, self.fill)

    def of_warped(self, regions: Tensor) -> NDArray[np.float32]:
        """(n, channels, *size), uint8 -> (n, dimension)"""
        features = np.empty((len(regions), getattr(self, "dimension", 0)), np.float32)
        runtime = self.classifier.runtime
        for start in range(0, len(regions), self.batch):
            with runtime.turn(), torch.inference_mode(), runtime.autocast():
                images = self.classifier.normalizer(regions[start : start + self.batch].to(runtime.device))
                maps = models.features(self.classifier.model, images, [self.path])[self.path].float()
                if maps.dim() == 4:
                    side = min(self.grid, *maps.shape[2:])
                    maps = adaptive_avg_pool2d(maps, side) if max(maps.shape[2:]) > side else maps
                rows = maps.flatten(1).cpu().numpy()
            if not features.shape[1]:
                features = np.empty((len(regions), rows.shape[1]), np.float32)
            features[start : start + len(rows)] = rows
        return features


def last_maps(classifier: Classifier) -> str:
    """The last child of the network whose output has more than one position: pool5, or the last stage.

    Raises UsageError where there is none.
    """
    model = classifier.model
    heads = model.heads if isinstance(model, models.Network) else {}
    children = [name for name, _ in model.named_children() if name not in heads]
    shape = classifier.metadata.preprocessing.shape
    image = classifier.normalizer(torch.zeros(1, *shape, dtype=torch.uint8, device=classifier.runtime.device))
    with torch.inference_mode():
        outputs = models.features(model, image, children)
    with_maps = [name for name in children if outputs[name].dim() == 4 and outputs[name][0, 0].numel() > 1]
    if not with_maps:
        raise UsageError(f"no layer of this network gives maps for images of {shape[1]}x{shape[2]}: name one")
    return with_maps[-1]
