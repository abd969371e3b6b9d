"""Find images that look alike: re-encoded, rescaled or darkened copies, but not mirror images.

The signature of an image is its grey values at 16x16. Two signatures are compared as unit vectors, after the
best-fitting plane of brightness, such as that of a lamp or a sky, is subtracted: a distance of 0 means equal,
1.4 unrelated. Images within MAX_DISTANCE look alike; whether they show the same thing, a person decides. The
distance is the same for every data set, whatever its size. docs/data.md has the shares of true and of false
alarms, which examples/near_duplicates.py measures.

Candidates come from a k-d tree of the lowest frequencies. Leaving out frequencies only shortens a distance,
so no pair within the maximal distance is lost.
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
LENGTH = SIDE * SIDE + 2  # of a signature: grey values, then the mean blue and red difference (ITU-T T.871)
MAX_DISTANCE = 0.1
MIN_CONTRAST = 4.0  # standard deviation of a signature's grey values: below it, noise decides the distance
MAX_COLOR_DIFFERENCE = 12.0  # between mean colours
MAX_NEIGHBORS = 8  # candidates for each image: thousands that are all alike must not become millions of pairs
NUM_FREQUENCIES = 6  # a side
CHUNK_SIZE = 4096  # signatures, or pairs of them, that are processed at a time

_rows, _columns = np.mgrid[:SIDE, :SIDE].reshape(2, -1)
# an orthonormal basis of all planes of brightness
_PLANES: NDArray[np.float32] = np.linalg.qr(np.stack([np.ones(SIDE**2), _rows, _columns], axis=1))[0].astype(
    np.float32
)
_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])

Signatures = NDArray[np.uint8]  # (n, LENGTH)


def signature(pixels: Pixels) -> NDArray[np.uint8]:
    """(height, width, 1 or 3) -> (LENGTH,)."""
    small = resize(pixels, (SIDE, SIDE)).numpy().reshape(pixels.shape[2], -1)
    if len(small) == 1:
        return np.append(small[0], np.full(2, 128, np.uint8))
    gray, blue, red = _YCBCR @ small
    return np.append(gray, [128 + blue.mean(), 128 + red.mean()]).round().clip(0, 255).astype(np.uint8)


class Pair(NamedTuple):
    first: int
    second: int
    distance: float


def find_near_duplicates(signatures: Signatures, content_hashes: Sequence[bytes]) -> list[Pair]:
    """Find the pairs within MAX_DISTANCE, nearest first.

    Images with equal content hashes are equal: of several, each is paired with the first. Images without
    contrast are compared by their hashes only.
    """
    first_by_hash: dict[bytes, int] = {}
    pairs = []
    for index, content_hash in enumerate(content_hashes):
        first = first_by_hash.setdefault(content_hash, index)
        if first != index:
            pairs.append(Pair(first, index, 0.0))
    distinct = np.array(list(first_by_hash.values()), np.int64)
    candidates, distances = _find_candidates(signatures[distinct])
    for (first, second), distance in zip(distinct[candidates].tolist(), distances, strict=True):
        pairs.append(Pair(first, second, round(float(distance), 3)))
    return sorted(pairs, key=lambda pair: (pair.distance, pair.first, pair.second))


def _find_candidates(signatures: Signatures) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pairs (n, 2) of different signatures within MAX_DISTANCE, and their distances (n,)."""
    spectra = np.zeros((len(signatures), NUM_FREQUENCIES**2), np.float32)
    contrasts = np.zeros(len(signatures), np.float32)
    for start in range(0, len(signatures), CHUNK_SIZE):
        chunk = slice(start, start + CHUNK_SIZE)
        vectors, contrasts[chunk] = _unit_vectors(signatures[chunk])
        spectra[chunk] = _low_frequencies(vectors)
    usable = np.flatnonzero(contrasts >= MIN_CONTRAST)
    if len(usable) < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    tree = cKDTree(spectra[usable])
    tree_distances, neighbors = tree.query(
        spectra[usable], k=1 + MAX_NEIGHBORS, distance_upper_bound=MAX_DISTANCE, workers=-1
    )
    images, neighbor_numbers = np.nonzero(np.isfinite(tree_distances))
    candidates = np.sort(np.stack([images, neighbors[images, neighbor_numbers]], axis=1), axis=1)
    candidates = candidates[candidates[:, 0] != candidates[:, 1]]
    pairs = usable[np.unique(candidates, axis=0)]
    distances = np.zeros(len(pairs), np.float32)
    for start in range(0, len(pairs), CHUNK_SIZE):
        chunk = slice(start, start + CHUNK_SIZE)
        distances[chunk] = _distances(signatures, pairs[chunk])
    is_near = distances <= MAX_DISTANCE
    return pairs[is_near], distances[is_near]


def _unit_vectors(signatures: Signatures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors (n, SIDE * SIDE), and the standard deviations (n,) that they were divided by."""
    gray = signatures[:, : SIDE * SIDE].astype(np.float32)
    gray -= (gray @ _PLANES) @ _PLANES.T
    contrasts = gray.std(axis=1)
    return gray / np.maximum(contrasts * SIDE, 1e-6)[:, None], contrasts


def _low_frequencies(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    spectra: NDArray[np.float32] = dctn(vectors.reshape(-1, SIDE, SIDE), axes=(1, 2), norm="ortho")
    return spectra[:, :NUM_FREQUENCIES, :NUM_FREQUENCIES].reshape(len(vectors), -1)


def _distances(signatures: Signatures, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """The distance of each pair; infinite if the mean colours differ."""
    first = signatures[pairs[:, 0]]
    second = signatures[pairs[:, 1]]
    differences = _unit_vectors(first)[0] - _unit_vectors(second)[0]
    distances: NDArray[np.float32] = np.linalg.norm(differences, axis=1)
    color_differences = np.abs(first[:, -2:].astype(np.float32) - second[:, -2:]).max(axis=1)
    return np.where(color_differences <= MAX_COLOR_DIFFERENCE, distances, np.float32(np.inf))
