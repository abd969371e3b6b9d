"""A trained R-CNN with its network and classes, ready for images of any size."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convatlas.boxes.detections import Detections
from convatlas.boxes.detector_file import DetectorParts, describe_detector, read_detector, write_detector
from convatlas.boxes.proposals import Pixels
from convatlas.boxes.rcnn import MAX_DETECTIONS, FitScorer, train_rcnn
from convatlas.boxes.region_extractor import RegionExtractor
from convatlas.boxes.region_sets import TrainingImage
from convatlas.boxes.ridge import BoxRegressor
from convatlas.boxes.scorers import fit_softmax_scorer
from convatlas.classifier.model_file import save_model_file
from convatlas.data.images.decode import ImageLike
from convatlas.data.images.inputs import ImageInput, image_name, read_image
from convatlas.data.images.prefetch import decode_ahead
from convatlas.errors import UsageError, UserError, printable
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks

MAX_AHEAD = 4  # images that are decoded before their objects are detected


class Detected(NamedTuple):
    """What is detected in an image, in pixels of its file, and the image, (height, width, channels), each of
    whose pixels is `scale` of those wide: above 1 in images of very many."""

    detections: Detections
    pixels: Pixels
    scale: float


class Detector:
    """Detects objects with the R-CNN of `weights`: a folder with a model.safetensors, such a file, or what
    `train_detector` made.

    Raises UserError for a file that is missing or damaged, UsageError for one that holds a network alone.
    """

    def __init__(self, weights: DetectorParts | str | Path, ranks: Ranks = SINGLE_PROCESS):
        parts = weights if isinstance(weights, DetectorParts) else read_detector(weights, ranks)
        self.metadata, self.extractor, self.rcnn = parts

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels of detections."""
        return self.metadata.classes

    @property
    def pairs(self) -> dict[str, int]:
        """The number of pairs that each class's regressor was fitted to, for the classes that have one."""
        return {
            self.classes[label]: count
            for label, count in zip(self.metadata.regressed, self.metadata.pairs, strict=True)
        }

    def detect(
        self,
        image: ImageInput,
        regression: bool = True,
        min_score: float = -np.inf,
        max_detections: int = MAX_DETECTIONS,
    ) -> Detections:
        """The objects in an image, best first: boxes (n, 4) in its pixels, scores (n,) and labels (n,),
        indices into `classes`. Without `regression` boxes are not moved.

        `image` is one of those of `Classifier.predict`. Raises UserError for a file that is no image,
        UsageError for pixels of another type or shape.
        """
        pixels, scale = self._decode(read_image(image, image_name(image, 0)))
        return self._detect(pixels, scale, regression, min_score, max_detections)

    def detect_iter(
        self, images: Iterable[ImageInput], max_detections: int = MAX_DETECTIONS
    ) -> Iterator[tuple[str, Detected | UserError]]:
        """Yield (name, the image with its objects, or why it cannot be read) as they come; the next images
        are decoded meanwhile."""
        for name, image in decode_ahead(images, self._decode, MAX_AHEAD):
            if isinstance(image, UserError):
                yield name, image
            else:
                pixels, scale = image
                detections = self._detect(pixels, scale, max_detections=max_detections)
                yield name, Detected(detections, pixels, scale)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the detector: a file that ends in .safetensors, or `model.safetensors` in a folder. Returns
        the file. Raises as `Classifier.save`."""
        parts = DetectorParts(self.metadata, self.extractor, self.rcnn)
        return save_model_file(path, overwrite, lambda file: write_detector(file, parts))

    def _decode(self, image: ImageLike) -> tuple[Pixels, float]:
        """The pixels, and how many pixels of the image each is wide."""
        preprocessing = self.extractor.features.classifier.metadata.preprocessing
        pixels = image.decode(preprocessing.channels, (image.height, image.width), preprocessing.value_range)
        return pixels, image.width / pixels.shape[1]

    def _detect(
        self,
        pixels: Pixels,
        scale: float,
        regression: bool = True,
        min_score: float = -np.inf,
        max_detections: int = MAX_DETECTIONS,
    ) -> Detections:
        height, width = pixels.shape[:2]
        boxes, scores, labels = self.rcnn.detect(
            self.extractor(pixels), (height, width), regression, min_score, max_detections=max_detections
        )
        return Detections(boxes * scale, scores, labels)

    def __repr__(self) -> str:
        names = [printable(name) for name in self.classes[:3]] + ["..."] * (len(self.classes) > 3)
        origin = self.metadata.provenance.get("data")
        trained = f", trained on {printable(origin)}" if origin else ""
        network = self.metadata.network.network.name
        return f"<Detector {network}: {len(self.classes)} classes ({', '.join(names)}){trained}>"


def train_detector(
    extractor: RegionExtractor,
    images: Sequence[TrainingImage],
    classes: Sequence[str],
    fit_scorer: FitScorer = fit_softmax_scorer,
    regressor: BoxRegressor | None = None,
    data: str | None = None,
) -> Detector:
    """Train R-CNN's linear classifiers and regressors on `images`, which `extractor.training_image` makes of
    annotated ones. `classes`: the names of their labels; `data`: the name of the data, for `eval`.

    Raises UserError where a class has no object, UsageError for a name that occurs twice.
    """
    if len({*classes}) != len(classes):
        raise UsageError("classes has a name twice: they are matched by their names")
    regressor = regressor or BoxRegressor()
    rcnn = train_rcnn(images, len(classes), fit_scorer, regressor)
    provenance: dict[str, Any] = {"images": len(images), "ridge": regressor.ridge}
    provenance |= {"data": data} if data else {}
    metadata = describe_detector(extractor, rcnn, tuple(classes), regressor.pairs, provenance)
    return Detector(DetectorParts(metadata, extractor, rcnn))
