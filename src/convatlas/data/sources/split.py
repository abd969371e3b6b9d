"""Hold samples out, stratified by class.

The order depends on content: no seed and no file name changes it.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ContentHashes = Sequence[bytes] | NDArray[np.bytes_]  # one for each sample


def hash_arrays(images: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """The first 16 bytes of the SHA-256 of every image."""
    return np.array([hashlib.sha256(image.tobytes()).digest()[:16] for image in images], dtype="S16")


def stratified_holdout(
    labels: NDArray[np.int64],
    content_hashes: ContentHashes,
    fractions: Sequence[float],
    groups: Sequence[str] | None = None,
    seed: int | None = None,
) -> list[NDArray[np.int64]]:
    """The sorted indices of one split for each fraction, and of the remaining samples as the last split.

    Samples of one group stay together: a group goes to the split that still needs most samples of the group's
    most frequent class. A `seed` gives another order than content alone.
    """
    keys = [bytes(content_hash) for content_hash in content_hashes]  # samples are taken in this order
    if seed is not None:
        keys = [hashlib.sha256(key + seed.to_bytes(8, "big")).digest() for key in keys]
    if groups is not None:
        return _holdout_by_group(labels, keys, fractions, groups)
    splits: list[list[NDArray[np.int64]]] = [[] for _ in range(len(fractions) + 1)]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        bounds = np.floor(np.cumsum([0.0, *fractions]) * len(members) + 0.5).astype(int)
        for split, start, end in zip(splits, bounds, [*bounds[1:], len(members)], strict=True):
            split.append(members[start:end])
    return [np.sort(np.concatenate(split)) if split else np.zeros(0, np.int64) for split in splits]


def _holdout_by_group(
    labels: NDArray[np.int64], keys: list[bytes], fractions: Sequence[float], groups: Sequence[str]
) -> list[NDArray[np.int64]]:
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    counts = np.bincount(labels)
    shares = [*fractions, 1 - sum(fractions)]
    missing = np.outer(shares, counts)  # (splits, classes): samples that each split still needs
    splits: list[list[int]] = [[] for _ in shares]
    # large groups first, while every split has room for them; ties by content
    for group in sorted(members, key=lambda g: (-len(members[g]), min(keys[i] for i in members[g]))):
        indices = members[group]
        group_counts = np.bincount(labels[indices], minlength=len(counts))
        label = int(group_counts.argmax())
        need = [missing[i, label] / max(shares[i] * counts[label], 1e-9) for i in range(len(shares))]
        split = max(range(len(shares)), key=lambda i: (need[i], shares[i]))
        splits[split] += indices
        missing[split] -= group_counts
    return [np.array(sorted(split), np.int64) for split in splits]
