"""The scores and the JSON document of an evaluation of boxes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from convatlas.boxes.average_precision import average_precision, coco_average_precision, match_detections
from convatlas.boxes.bootstrap import interval
from convatlas.boxes.detections import Detections, Truths
from convatlas.boxes.object_overlaps import object_overlaps


def box_scores(
    detections: Sequence[Detections], truths: Sequence[Truths], num_classes: int
) -> dict[str, Any]:
    """The scores of detections, in percent: `ap50` (VOC's area below the curve, the mean over the classes),
    `mean_iou` (of `object_overlaps`), their 95 % bootstrap intervals over the images, and `n` images."""
    outcomes = match_detections(detections, truths, num_classes)
    overlaps = object_overlaps(detections, truths)
    return {
        "ap50": outcomes.mean(),
        "ap50_interval": interval(outcomes.bootstrap()),
        "mean_iou": overlaps.mean(),
        "mean_iou_interval": interval(overlaps.bootstrap()),
        "n": len(truths),
    }


def results_document(
    detections: Sequence[Detections], truths: Sequence[Truths], classes: Sequence[str]
) -> dict[str, Any]:
    """The part of the document of `eval` that follows from detections: `box_scores`, the average precisions
    of VOC 2007 and COCO, the objects and the average precision of each class (None without an object)."""
    by_class = match_detections(detections, truths, len(classes)).by_class()
    labels = np.concatenate([truth.labels[~truth.ignored] for truth in truths] or [np.zeros(0, np.int64)])
    counts = np.bincount(labels, minlength=len(classes))
    return box_scores(detections, truths, len(classes)) | {
        "ap50_voc07": average_precision(detections, truths, len(classes), "voc07"),
        "ap50_coco": average_precision(detections, truths, len(classes), "coco"),
        "ap_coco": coco_average_precision(detections, truths, len(classes)),
        "objects": len(labels),
        "per_class": [
            {"name": name, "objects": int(count), "ap50": None if np.isnan(ap) else float(ap)}
            for name, count, ap in zip(classes, counts, by_class, strict=True)
        ],
    }
