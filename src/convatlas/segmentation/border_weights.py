"""Weights of pixels that make a network learn the borders between cells. Ronneberger, Fischer, Brox 2015,
arXiv:1505.04597, sec. 3, eq. 2:

    w(x) = w_c(x) + w_0 exp(-(d_1(x) + d_2(x))^2 / (2 sigma^2))

with d_1 and d_2 the distances to the border of the nearest and of the second nearest cell, w_0 = 10, sigma
near 5 pixels, and w_c a weight that balances the classes' frequencies in the training data.

Unstated
- Which pixels have the second term: ours are those of the background. The masks have a strip of background
  between cells that touch (sec. 3: "the separation border is computed using morphological operations"); where
  two ids meet without one, the pixels of the cells have w_c alone.
- The distance of two pixels (ours: Euclidean, between their centres; the border of a cell is its outermost
  pixels) and fewer than two cells (ours: no second term).
- The scale of w_c: ours is pixels / (classes * pixels of the class), whose mean over the pixels is 1.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# A border term below this is left out: float32 weights near 1 do not change
NEGLIGIBLE = 1e-8


def balance_classes(pixels: NDArray[np.integer]) -> NDArray[np.float64]:
    """(classes,) numbers of pixels, of the training data -> (classes,) weights w_c; 0 for a class without
    pixels, which does not count."""
    present = pixels > 0
    weights = np.zeros(len(pixels))
    weights[present] = pixels.sum() / (present.sum() * pixels[present])
    return weights


def border_weights(
    instances: NDArray[np.integer],
    class_ids: NDArray[np.integer] | None = None,
    class_weights: NDArray[np.float64] | None = None,
    w0: float = 10.0,
    sigma: float = 5.0,
    ignore: int = 255,
) -> NDArray[np.float32]:
    """(h, w): the weight of every pixel.

    `instances`: (h, w) ids of cells, 0 background. `class_ids`: (h, w), by default 1 for cells and 0 for
    background; pixels of class `ignore` weigh 0. `class_weights`: (classes,), w_c by class id, by default
    those that balance this image. Raises ValueError for shapes that differ, for ids that are no integers from
    0 on or have no weight, and for sigma 0 or below.
    """
    if instances.ndim != 2 or not np.issubdtype(instances.dtype, np.integer) or (instances < 0).any():
        raise ValueError("instances should be integer ids (h, w) from 0 on")
    if not (sigma > 0 and w0 >= 0):
        raise ValueError(f"sigma should be above 0 and w0 at least 0, not {sigma} and {w0}")
    classes = (instances > 0).astype(np.int64) if class_ids is None else class_ids.astype(np.int64)
    if classes.shape != instances.shape:
        raise ValueError(f"class_ids have shape {classes.shape} but instances {instances.shape}")
    counted = classes != ignore if class_ids is not None else np.ones(classes.shape, bool)
    if class_weights is None:
        class_weights = balance_classes(np.bincount(classes[counted]))
    elif (classes[counted] >= len(class_weights)).any():
        raise ValueError(
            f"class_ids hold {classes[counted].max()}, but there are {len(class_weights)} class_weights"
        )
    weights = np.zeros(instances.shape)
    weights[counted] = class_weights[classes[counted]]
    background = counted & (instances == 0)
    weights[background] += _border_term(instances, w0, sigma)[background]
    return weights.astype(np.float32)


def _border_term(instances: NDArray[np.integer], w0: float, sigma: float) -> NDArray[np.float64]:
    """The second term of eq. 2 at every pixel, without values below NEGLIGIBLE.

    A cell matters no farther away than where its distance alone makes the term negligible, so its distance
    transform is of its surroundings only.
    """
    reach = math.ceil(sigma * math.sqrt(2 * math.log(max(w0 / NEGLIGIBLE, 1))))
    nearest = np.full(instances.shape, np.inf)
    second = np.full(instances.shape, np.inf)
    ids, cells = np.unique(instances, return_inverse=True)
    cells = cells.reshape(instances.shape) + (ids[0] > 0)  # 0 is the background, also where there is none
    for cell, box in enumerate(ndimage.find_objects(cells), start=1):
        window = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
        distance = ndimage.distance_transform_edt(cells[window] != cell)
        second[window] = np.minimum(second[window], np.maximum(nearest[window], distance))
        nearest[window] = np.minimum(nearest[window], distance)
    term: NDArray[np.float64] = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return term
