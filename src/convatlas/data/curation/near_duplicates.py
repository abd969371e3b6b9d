"""Images that show the same: re-encoded, rescaled, a little cropped, made darker. Mirror images are not the same.

An image's look is its grey values at 16x16. Two looks are compared as unit vectors, without the plane of brightness that a lamp or a
sky lays over a picture: 0 apart is the same, 1.4 unrelated. Measured on scikit-image's photographs and 149 tiles of them, 13 changes
each: JPEG at quality 50 to 95 at most 0.11 apart, half the size at most 0.15, 1 % cut off every side at most 0.32 (98.7 % of them
within 0.28); different photographs at least 0.72, a stereo pair 0.46. At 0.06 are nine of ten JPEGs at quality 50, and of the 70,000
garments of Fashion-MNIST 95 pairs, nearly all of them the same garment; at 0.1 those are 2,014 pairs, nearly all different ones.

Candidates come from a k-d tree of the lowest frequencies: leaving some out only shortens a distance, so none within reach is lost.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.spatial import cKDTree

from convatlas.data.images.decode import Pixels
from convatlas.data.images.resize import resize

SIDE = 16
LENGTH = SIDE * SIDE + 2  # of a look: grey values, then the mean blue and red difference (ITU-T T.871)
MAX_DISTANCE = 0.28
MAX_DISTANCE_UNIFORM_SET = 0.06  # where a whole set looks alike, such as drawn digits or X-rays: hardly more than a change of encoding
UNIFORM_SET_NEIGHBORS = 50, 0.05  # so many images, and such a share of all, with something alike make a crowd
FLAT = 4.0  # standard deviation of a look's grey values: with less, noise decides what it is like
TINT = 12.0  # how far apart the mean colours may be
NEAREST = 8  # so many others are looked for around each image: thousands that are all alike must not become millions of pairs
FREQUENCIES = 6  # a side
PIECE = 4096  # looks that are compared at a time

_down, _across = np.mgrid[:SIDE, :SIDE].reshape(2, -1)
_PLANE: NDArray[np.float32] = np.linalg.qr(np.stack([np.ones(SIDE**2), _down, _across], axis=1))[0].astype(np.float32)
_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])

Signatures = NDArray[np.uint8]  # (n, LENGTH)


def signature(pixels: Pixels) -> NDArray[np.uint8]:
    """(height, width, 1 or 3) -> (LENGTH,)."""
    small = resize(pixels, (SIDE, SIDE)).numpy().reshape(pixels.shape[2], -1)
    if len(small) == 1:
        return np.append(small[0], np.full(2, 128, np.uint8))
    grey, blue, red = _YCBCR @ small
    return np.append(grey, [128 + blue.mean(), 128 + red.mean()]).round().clip(0, 255).astype(np.uint8)


class Pair(NamedTuple):
    first: int
    second: int
    distance: float


class NearDuplicates(NamedTuple):
    """Pairs within `reach` of each other, nearest first; of a group of equal files, each with the first."""

    pairs: list[Pair]
    max_distance: float


def find_near_duplicates(looks: Signatures, keys: Sequence[bytes]) -> NearDuplicates:
    """`keys` hash the images' content: equal ones are compared by it alone, and so are images without contrast."""
    firsts: dict[bytes, int] = {}
    pairs = []
    for index, key in enumerate(keys):
        if (first := firsts.setdefault(key, index)) != index:
            pairs.append(Pair(first, index, 0.0))
    once = np.array(list(firsts.values()), np.int64)
    near, distances = _near(looks[once])
    crowded = len(np.unique(near)) > max(UNIFORM_SET_NEIGHBORS[0], UNIFORM_SET_NEIGHBORS[1] * len(once))
    reach = MAX_DISTANCE_UNIFORM_SET if crowded else MAX_DISTANCE
    within = distances <= reach
    for (one, other), distance in zip(once[near[within]].tolist(), distances[within], strict=True):
        pairs.append(Pair(one, other, round(float(distance), 3)))
    return NearDuplicates(sorted(pairs, key=lambda pair: (pair.distance, pair.first, pair.second)), reach)


def _near(looks: Signatures) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pairs (n, 2) of different looks within REACH, and their distances (n,)."""
    waves, spreads = np.zeros((len(looks), FREQUENCIES**2), np.float32), np.zeros(len(looks), np.float32)
    for start in range(0, len(looks), PIECE):
        piece = slice(start, start + PIECE)
        vectors, spreads[piece] = _vectors(looks[piece])
        waves[piece] = _lowest(vectors)
    clear = np.flatnonzero(spreads >= FLAT)
    if len(clear) < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    found, others = cKDTree(waves[clear]).query(waves[clear], k=1 + NEAREST, distance_upper_bound=MAX_DISTANCE, workers=-1)
    one, place = np.nonzero(np.isfinite(found))
    candidates = np.sort(np.stack([one, others[one, place]], axis=1), axis=1)
    pairs = clear[np.unique(candidates[candidates[:, 0] != candidates[:, 1]], axis=0)]
    distances = np.zeros(len(pairs), np.float32)
    for start in range(0, len(pairs), PIECE):
        distances[start : start + PIECE] = _distances(looks, pairs[start : start + PIECE])
    return pairs[distances <= MAX_DISTANCE], distances[distances <= MAX_DISTANCE]


def _vectors(looks: Signatures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors (n, SIDE * SIDE), and the standard deviations (n,) that they were divided by."""
    grey = looks[:, : SIDE * SIDE].astype(np.float32)
    grey -= (grey @ _PLANE) @ _PLANE.T
    spread = grey.std(axis=1)
    return grey / np.maximum(spread * SIDE, 1e-6)[:, None], spread


def _lowest(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    waves: NDArray[np.float32] = dctn(vectors.reshape(-1, SIDE, SIDE), axes=(1, 2), norm="ortho")
    return waves[:, :FREQUENCIES, :FREQUENCIES].reshape(len(vectors), -1)


def _distances(looks: Signatures, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of each pair; infinite where the colours differ."""
    first, second = looks[pairs[:, 0]], looks[pairs[:, 1]]
    apart: NDArray[np.float32] = np.linalg.norm(_vectors(first)[0] - _vectors(second)[0], axis=1)
    tints = np.abs(first[:, -2:].astype(np.float32) - second[:, -2:]).max(axis=1)
    return np.where(tints <= TINT, apart, np.float32(np.inf))
