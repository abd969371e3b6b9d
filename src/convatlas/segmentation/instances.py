"""Objects in masks: connected components, and the score of the cell tracking challenge.

U-Net (arXiv:1505.04597, Table 2) reports the challenge's SEG as "IOU". For a reference object R, let S be the
predicted object that covers more than half of R; the score of R is the Jaccard index |R and S| / |R or S|, 0
where there is no such S. SEG is the mean over the reference objects (Maska et al. 2014, "A benchmark for
comparison of cell tracking algorithms", Bioinformatics 30(11), sec. 2.4).
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.integer]


def label_instances(
    mask: Mask, connectivity: int = 8, background: int = 0, ignore: int | None = 255
) -> NDArray[np.int32]:
    """(h, w) class ids -> (h, w) ids of objects from 1 on, 0 for background and ignored pixels.

    An object is a connected component of pixels of one class, by `connectivity` 8 (sides and corners) or 4
    (sides). Objects of different classes that touch are two; those of one class that touch are one.
    Raises ValueError for another connectivity, and for a mask that is not of integers (h, w), 0 or above.
    """
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity should be 4 or 8, not {connectivity}")
    _check_ids(mask, "mask")
    structure = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    instances = np.zeros(mask.shape, np.int32)
    count = 0
    for class_id in np.unique(mask):
        if class_id in (background, ignore):
            continue
        components, number = ndimage.label(mask == class_id, structure)
        instances += np.where(components, components + count, 0).astype(np.int32)
        count += number
    return instances


def instance_scores(predictions: Mask, references: Mask) -> NDArray[np.float64]:
    """(objects,): the score of every reference object, in the order of their ids, in percent.

    Both masks are (h, w) object ids, 0 background; ids may have gaps. The challenge's score is the mean over
    the objects of all images. Raises ValueError for shapes that differ, and for masks that are not of
    integers (h, w), 0 or above.
    """
    _check_ids(predictions, "predictions")
    _check_ids(references, "references")
    if predictions.shape != references.shape:
        raise ValueError(
            f"predictions have shape {predictions.shape} but references {references.shape}: expected equal "
            "shapes"
        )
    reference_ids, reference_areas = np.unique(references[references > 0], return_counts=True)
    predicted_ids, predicted_areas = np.unique(predictions[predictions > 0], return_counts=True)
    overlap = (predictions > 0) & (references > 0)
    # the joint histogram has few cells of many: only those that occur are counted
    row = np.searchsorted(reference_ids, references[overlap])
    column = np.searchsorted(predicted_ids, predictions[overlap])
    cells, intersections = np.unique(row * len(predicted_ids) + column, return_counts=True)
    row, column = np.divmod(cells, max(len(predicted_ids), 1))
    covers = 2 * intersections > reference_areas[row]  # at most one object covers more than half
    row, column, intersections = row[covers], column[covers], intersections[covers]
    scores = np.zeros(len(reference_ids))
    scores[row] = 100 * intersections / (reference_areas[row] + predicted_areas[column] - intersections)
    return scores


def _check_ids(ids: Mask, name: str) -> None:
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} should be integer ids (h, w), not {ids.dtype} of shape {ids.shape}")
    if ids.size and ids.min() < 0:
        raise ValueError(f"{name} hold the id {ids.min()}: expected ids from 0 on")
