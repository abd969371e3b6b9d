"""The regions of images with their features: proposed, warped, and described by a network."""

import time
from dataclasses import dataclass

import numpy as np

from convatlas.boxes.arrays import Array
from convatlas.boxes.detections import image_truths
from convatlas.boxes.features import RegionFeatures
from convatlas.boxes.proposal_methods import Proposals, SlidingWindows
from convatlas.boxes.proposals import Pixels
from convatlas.boxes.region_sets import Regions, TrainingImage
from convatlas.boxes.targets import iou
from convatlas.data.sources.box_annotations import AnnotatedImage

MIN_OVERLAP = 0.3  # IoU with an object from which on all of a training image's proposals are taken
BACKGROUND_REGIONS = 32  # of a training image's other proposals


@dataclass
class StageSeconds:
    """The seconds that each stage has taken, and for how much."""

    propose: float = 0.0
    warp: float = 0.0
    network: float = 0.0
    images: int = 0
    regions: int = 0

    def __str__(self) -> str:
        stages = {"propose": self.propose, "warp": self.warp, "network": self.network}
        stages["all"] = sum(stages.values())
        rates = [f"{stage} {self.images / seconds:.1f}" for stage, seconds in stages.items() if seconds]
        return f"{self.regions / max(self.images, 1):.0f} regions each: {', '.join(rates)}"


class RegionExtractor:
    """Proposes regions of images and gives them the features of a classifier's network."""

    def __init__(self, features: RegionFeatures, proposals: Proposals | None = None):
        self.features = features
        self.proposals = proposals or SlidingWindows()
        self.seconds = StageSeconds()

    def decode(self, image: AnnotatedImage) -> Pixels:
        """The pixels of an image as the network's channels. Raises UserError as `AnnotatedImage.decode`."""
        preprocessing = self.features.classifier.metadata.preprocessing
        return image.decode(preprocessing.channels, preprocessing.value_range)

    def __call__(self, pixels: Pixels) -> Regions:
        """The proposals of an image (height, width, channels), uint8, with the network's channels."""
        start = time.perf_counter()
        boxes = self.proposals(pixels)
        self.seconds.propose += time.perf_counter() - start
        return self._describe(pixels, boxes)

    def training_image(self, image: AnnotatedImage, background: int = BACKGROUND_REGIONS) -> TrainingImage:
        """The boxes of an image's objects, the proposals that overlap one of them by an IoU of 0.3 or more,
        and `background` others, evenly from all. Raises UserError for an image that cannot be read."""
        pixels = self.decode(image)
        start = time.perf_counter()
        boxes = self.proposals(pixels)
        overlaps = iou(boxes, image.boxes).max(axis=1, initial=0)
        others = boxes[overlaps < MIN_OVERLAP]
        spread = np.linspace(0, len(others) - 1, min(background, len(others))).astype(int)
        boxes = np.vstack([image.boxes, boxes[overlaps >= MIN_OVERLAP], others[spread]])
        self.seconds.propose += time.perf_counter() - start
        return TrainingImage(self._describe(pixels, boxes), image_truths(image))

    def _describe(self, pixels: Pixels, boxes: Array) -> Regions:
        start = time.perf_counter()
        warped = self.features.warp(pixels, boxes)
        cropped = time.perf_counter()
        regions = Regions(boxes, self.features.of_warped(warped))
        self.seconds.warp += cropped - start
        self.seconds.network += time.perf_counter() - cropped
        self.seconds.images += 1
        self.seconds.regions += len(boxes)
        return regions
