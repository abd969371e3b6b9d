"""`eval` of a detector: the objects in whole images, each by itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convatlas.boxes.detections import Detections, Truths, image_truths
from convatlas.boxes.detector import Detector
from convatlas.boxes.results import results_document
from convatlas.classifier import Classifier
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.sources.box_annotations import AnnotatedImage
from convatlas.data.sources.box_folder import BoxDataset, open_boxes
from convatlas.data.sources.source import ALL
from convatlas.errors import UsageError, UserError, printable, unknown_name
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.runtime.progress import track

MAX_NAMED = 3  # classes in a note


def evaluate_boxes(
    weights: Sequence[Detector | Classifier | str | Path],
    data: str | None,
    split: str | None,
    crops: str,
    ranks: Ranks,
) -> dict[str, Any]:
    """The document of `eval`: that of `boxes.results`, with the data, and under `unreadable` the annotations
    and images that cannot be used. The ranks share the images, and each gets the document.

    Raises UsageError for several detectors, for crops, for a split that does not exist, and for data with
    classes that the detector lacks; UserError for data without boxes, or without an object.
    """
    if len(weights) > 1:
        raise UsageError("eval averages networks that classify images: give one detector by itself")
    if crops != "center":
        raise UsageError(f"detectors take whole images: leave out --crops {printable(crops)}")
    (source,) = weights
    assert not isinstance(source, Classifier)
    detector = source if isinstance(source, Detector) else Detector(source, ranks)
    name = data or detector.metadata.provenance.get("data")
    if not name:
        raise UsageError("this detector does not say what it was trained on: name the data with --data")
    dataset = open_boxes(name, on_bad="skip")
    chosen, notes = _choose_split(dataset, split)
    indices = _class_indices(dataset, detector)
    annotated = dataset.splits[chosen]
    bad = [{"file": entry.position, "reason": entry.reason} for entry in annotated.skipped]
    detections: list[Detections] = []
    truths: list[Truths] = []
    for image, detected in zip(annotated.images, _detect_all(detector, annotated.images, ranks), strict=True):
        if isinstance(detected, UnreadableImage):
            bad.append({"file": str(image.file), "reason": detected.reason})
            continue
        detections.append(detected)
        truths.append(image_truths(image)._replace(labels=indices[image.labels]))
    if not any((~truth.ignored).any() for truth in truths):
        raise UserError(f"{printable(dataset.name)}, {chosen}, has no image with an object that can be used")
    document = results_document(detections, truths, detector.classes)
    absent = [row["name"] for row in document["per_class"] if not row["objects"]]
    if absent:
        names = ", ".join(absent[:MAX_NAMED]) + (" and others" if len(absent) > MAX_NAMED else "")
        notes.append(
            f"{chosen} has no object of {len(absent):,} of the detector's {len(detector.classes):,} classes: "
            f"{names}; they have no part in the mean"
        )
    return document | {
        "crops": "whole",
        "models": 1,
        "data": dataset.name,
        "split": chosen,
        "members": [
            {
                "weights": "#1" if isinstance(source, Detector) else str(source),
                "network": detector.metadata.network.network.name,
            }
        ],
        "unreadable": bad,
        "notes": notes,
    }


def _choose_split(dataset: BoxDataset, split: str | None) -> tuple[str, list[str]]:
    """The split, by default `test`, and notes."""
    name = printable(dataset.name)
    if split is None and ALL in dataset.splits:
        count = len(dataset.splits[ALL].images)
        return ALL, [f"{name} has no splits: all of its {count:,} images are taken"]
    if (split or "test") in dataset.splits:
        return split or "test", []
    if split is None:
        raise UsageError(f"{name} has {', '.join(dataset.splits)} but no test images: choose with --split")
    raise unknown_name("split", split, dataset.splits)


def _class_indices(dataset: BoxDataset, detector: Detector) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(classes of the data,): the index of each in the detector. Raises UsageError for one that it lacks."""
    unknown = [name for name in dataset.classes if name not in detector.classes]
    if unknown:
        raise UsageError(
            f"{printable(dataset.name)} has {len(unknown)} classes that the detector lacks, "
            f"'{printable(unknown[0])}' first: expected only {printable(', '.join(detector.classes[:10]))}"
        )
    return np.array([detector.classes.index(name) for name in dataset.classes], np.int64)


def _detect_all(
    detector: Detector, images: Sequence[AnnotatedImage], ranks: Ranks
) -> list[Detections | UnreadableImage]:
    """The detections in each image, or why it cannot be read; every rank gets all."""
    own = images[ranks.rank :: ranks.world_size]
    computed = [_detect(detector, image) for image in track(own, len(own), "images")]
    shares = ranks.all_gather(computed)
    return [shares[i % ranks.world_size][i // ranks.world_size] for i in range(len(images))]


def _detect(detector: Detector, image: AnnotatedImage) -> Detections | UnreadableImage:
    try:
        pixels = detector.extractor.decode(image)
    except UnreadableImage as error:
        return error
    return detector.detect(pixels)
