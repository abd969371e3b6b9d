"""Which detections count as true: the two ways in which benchmarks match them with objects.

Both take the detections of a class in an image, best first, and say of each whether it is true (1), false (0)
or ignored (-1).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from convatlas.boxes.arrays import Array
from convatlas.boxes.targets import areas, intersection_areas, iou

Outcomes = NDArray[np.int8]  # (n,)
Match = Callable[[Array, Array, NDArray[np.bool_], float], Outcomes]
"""(detections (n, 4), best first; objects (m, 4); ignored (m,); threshold) -> outcomes (n,)"""

TRUE, FALSE, IGNORED = 1, 0, -1


def match_voc(boxes: Array, objects: Array, ignored: NDArray[np.bool_], threshold: float) -> Outcomes:
    """PASCAL VOC's: a detection belongs to the object with which its IoU is largest, and is false if that is
    below the threshold or a better detection has taken the object. Everingham et al. 2010, sec. 4.4.
    """
    outcomes = np.zeros(len(boxes), np.int8)
    if not len(objects):
        return outcomes
    overlaps = iou(boxes, objects)
    is_taken = np.zeros(len(objects), bool)
    for index, best in enumerate(overlaps.argmax(axis=1)):
        if overlaps[index, best] < threshold:
            continue
        if ignored[best]:
            outcomes[index] = IGNORED
        elif not is_taken[best]:
            outcomes[index] = TRUE
            is_taken[best] = True
    return outcomes


def match_coco(boxes: Array, objects: Array, ignored: NDArray[np.bool_], threshold: float) -> Outcomes:
    """COCO's: a detection takes the object, of those that are left, with which its IoU is largest and not
    below the threshold. One that takes none but overlaps a crowd is ignored; its overlap is the share of its
    own area, and a crowd is never used up. Of equal overlaps the last listed, as in pycocotools.
    """
    outcomes = np.zeros(len(boxes), np.int8)
    for index, best in enumerate(coco_pairs(boxes, objects, ignored, threshold)):
        if best >= 0:
            outcomes[index] = IGNORED if ignored[best] else TRUE
    return outcomes


def coco_pairs(
    boxes: Array, objects: Array, ignored: NDArray[np.bool_], threshold: float
) -> NDArray[np.int64]:
    """(n,): the object that each detection takes, -1 for none."""
    pairs = np.full(len(boxes), -1, np.int64)
    if not len(objects):
        return pairs
    overlaps = iou(boxes, objects)
    overlaps[:, ignored] = crowd_overlaps(boxes, objects[ignored])
    is_free = np.ones(len(objects), bool)
    for index, row in enumerate(overlaps):
        for candidates in (is_free & ~ignored, ignored):
            fitting = np.flatnonzero(candidates & (row >= min(threshold, 1 - 1e-10)))
            if len(fitting):
                best = fitting[::-1][row[fitting[::-1]].argmax()]
                pairs[index] = best
                is_free[best] = ignored[best]
                break
    return pairs


def crowd_overlaps(boxes: Array, crowds: Array) -> Array:
    """The share of each box's area that lies in each crowd region: (n, 4), (m, 4) -> (n, m)"""
    own = areas(boxes)[:, None]
    intersections = intersection_areas(boxes, crowds)
    return np.divide(intersections, own, out=np.zeros_like(intersections), where=own > 0)
