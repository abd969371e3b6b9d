"""Which samples are held out: stratified by class, in an order that content gives, so that no seed and no file name changes it."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ContentHashes = Sequence[bytes] | NDArray[np.bytes_]  # a hash of every sample's content


def hash_arrays(images: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """A hash of every image's bytes."""
    return np.array([hashlib.sha256(image.tobytes()).digest()[:16] for image in images], dtype="S16")


def stratified_holdout(
    labels: NDArray[np.int64], keys: ContentHashes, fractions: Sequence[float], groups: Sequence[str] | None = None, seed: int | None = None
) -> list[NDArray[np.int64]]:
    """Indices of the parts that `fractions` ask for, and last of what remains.

    Samples of one group stay together: a group goes where its class, the one most of its samples have, still lacks most. With a
    `seed`, another order than content's.
    """
    keys = [key if seed is None else hashlib.sha256(key + seed.to_bytes(8, "big")).digest() for key in map(bytes, keys)]
    if groups is not None:
        return _by_group(labels, keys, fractions, groups)
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(len(fractions) + 1)]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        ends = np.floor(np.cumsum([0.0, *fractions]) * len(members) + 0.5).astype(int)
        for part, start, end in zip(parts, ends, [*ends[1:], len(members)], strict=True):
            part.append(members[start:end])
    return [np.sort(np.concatenate(part)) if part else np.zeros(0, np.int64) for part in parts]


def _by_group(labels: NDArray[np.int64], keys: list[bytes], fractions: Sequence[float], groups: Sequence[str]) -> list[NDArray[np.int64]]:
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    counts = np.bincount(labels)
    shares = [*fractions, 1 - sum(fractions)]
    lacking = np.outer(shares, counts)  # samples that each part still wants of each class
    parts: list[list[int]] = [[] for _ in shares]
    # large groups first, while there is room for them; ties by content
    for group in sorted(members, key=lambda g: (-len(members[g]), min(keys[i] for i in members[g]))):
        indices = members[group]
        taken = np.bincount(labels[indices], minlength=len(counts))
        label = int(taken.argmax())
        part = max(range(len(shares)), key=lambda p: (lacking[p, label] / max(shares[p] * counts[label], 1e-9), shares[p]))
        parts[part] += indices
        lacking[part] -= taken
    return [np.array(sorted(part), np.int64) for part in parts]
