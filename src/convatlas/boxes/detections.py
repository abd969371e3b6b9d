"""What a detector finds in an image, and what is in it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convatlas.boxes.arrays import Array, Values, as_boxes, as_labels, as_vector
from convatlas.data.sources.box_annotations import AnnotatedImage
from convatlas.errors import UsageError


class Detections(NamedTuple):
    """Boxes that a detector finds in an image."""

    boxes: Array  # (n, 4)
    scores: Array  # (n,)
    labels: NDArray[np.int64]  # (n,): classes, from 0


class Truths(NamedTuple):
    """The objects of an image. Those that are `ignored` (COCO's crowd regions, VOC's difficult objects) are
    neither targets nor background: no detection of them counts, for or against."""

    boxes: Array  # (n, 4)
    labels: NDArray[np.int64]  # (n,): classes, from 0
    ignored: NDArray[np.bool_]  # (n,)


def detections(boxes: Values, scores: Values, labels: Values) -> Detections:
    """Detections from arrays, tensors or lists: boxes (n, 4), scores (n,), labels (n,). Raises UsageError for
    boxes that are inverted or not finite, and for shapes that do not match."""
    checked = as_boxes(boxes, "boxes", flat=True)
    n = len(checked)
    return Detections(checked, as_vector(scores, "scores", n), as_labels(labels, "labels", n))


def truths(boxes: Values, labels: Values, ignored: Values | None = None) -> Truths:
    """Objects from arrays, tensors or lists: boxes (n, 4), labels (n,), ignored (n,), by default none of
    them. Raises UsageError for boxes that are inverted, without area or not finite, and for other shapes."""
    checked = as_boxes(boxes, "boxes")
    n = len(checked)
    flags = np.zeros(n, bool) if ignored is None else np.asarray(ignored)
    if flags.shape != (n,) or flags.dtype != np.bool_:
        raise UsageError(f"ignored should be booleans of shape ({n},), not {flags.dtype} of {flags.shape}")
    return Truths(checked, as_labels(labels, "labels", n), flags)


def image_truths(image: AnnotatedImage) -> Truths:
    """The objects of an annotated image."""
    return Truths(image.boxes, image.labels, image.ignored)
