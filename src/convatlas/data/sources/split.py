"""Hold samples out, stratified by class.

The order depends on content: no seed and no file name changes it. Samples with the same content are never
separated.
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

    Samples of one group, and samples with the same content, stay together: such a set goes to the split that
    still needs most samples of the set's most frequent class. Every split has a sample of every class that
    has as many sets as there are splits; of fewer, the last split comes first. A `seed` gives another order
    than content alone.
    """
    keys = [bytes(content_hash) for content_hash in content_hashes]  # samples are taken in this order
    if seed is not None:
        keys = [hashlib.sha256(key + seed.to_bytes(8, "big")).digest() for key in keys]
    copies = _equal_keys(keys)
    if groups is not None:
        joined = [*_by_name(join_groups(groups, copies)).values()]
        counts = np.bincount(labels)
        missing = np.outer([*fractions, 1 - sum(fractions)], counts)
        splits, _ = _assign_sets(labels, keys, joined, missing)
    else:
        missing = _split_sizes(labels, copies, fractions)
        splits, missing = _assign_sets(labels, keys, copies, missing)
        _assign_singles(labels, keys, copies, missing, splits)
    return [np.array(sorted(split), np.int64) for split in splits]


def _equal_keys(keys: Sequence[bytes]) -> list[list[int]]:
    """The indices of every key that occurs more than once."""
    first: dict[bytes, int] = {}
    copies: dict[int, list[int]] = {}
    for index, key in enumerate(keys):
        original = first.setdefault(key, index)
        if original != index:
            copies.setdefault(original, [original]).append(index)
    return list(copies.values())


def _by_name(groups: Sequence[str]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return members


def join_groups(groups: Sequence[str], copies: Sequence[Sequence[int]]) -> list[str]:
    """The group of each sample, after the groups of each set of `copies` (samples' indices) became one."""
    parent: dict[str, str] = {}

    def root(group: str) -> str:
        while (above := parent.get(group, group)) != group:
            group = above
        return group

    for indices in copies:
        for index in indices[1:]:
            first, other = sorted((root(groups[indices[0]]), root(groups[index])))
            if first != other:
                parent[other] = first
    return [root(group) for group in groups]


def _split_sizes(
    labels: NDArray[np.int64], copies: Sequence[Sequence[int]], fractions: Sequence[float]
) -> NDArray[np.float64]:
    """(splits, classes): how many samples of each class each split takes."""
    counts = np.bincount(labels)
    num_sets = counts.copy()  # samples that can be separated
    for indices in copies:
        num_sets -= np.bincount(labels[indices], minlength=len(counts))
        num_sets[labels[indices[0]]] += 1
    bounds = np.floor(np.outer(np.cumsum([0.0, *fractions]), counts) + 0.5)
    sizes = np.diff(bounds, axis=0, append=counts[None].astype(float))
    for label in np.flatnonzero((sizes == 0).any(axis=0) & (counts > 0)):
        if num_sets[label] >= len(sizes):
            for empty in np.flatnonzero(sizes[:, label] == 0):
                sizes[sizes[:, label].argmax(), label] -= 1
                sizes[empty, label] += 1
    # A class with too few samples for every split: the last split, and then the one that has fewest samples.
    for label in np.flatnonzero((num_sets < len(sizes)) & (counts > 0)):
        sizes[:, label] = 0
        sizes[-1, label] = counts[label]
        if num_sets[label] > 1:
            held_out = sizes[:-1].sum(axis=1)
            split = (
                len(held_out) - 1 - int(held_out[::-1].argmin())
            )  # of equal ones the last: test before val
            sizes[split, label] += 1
            sizes[-1, label] -= 1
    return sizes


def _assign_sets(
    labels: NDArray[np.int64],
    keys: Sequence[bytes],
    sets: Sequence[list[int]],
    missing: NDArray[np.float64],
) -> tuple[list[list[int]], NDArray[np.float64]]:
    """The samples of each split after each set went to one, and the samples that each split still needs.

    `missing` (splits, classes): the samples that each split needs before.
    """
    needed = missing.copy()
    missing = missing.copy()
    totals = needed.sum(axis=1)
    splits: list[list[int]] = [[] for _ in needed]
    # large sets first, while every split has room for them; ties by content
    for indices in sorted(sets, key=lambda indices: (-len(indices), min(keys[i] for i in indices))):
        set_counts = np.bincount(labels[indices], minlength=needed.shape[1])
        label = int(set_counts.argmax())
        need = missing[:, label] / np.maximum(needed[:, label], 1e-9)
        split = max(range(len(splits)), key=lambda i: (need[i], totals[i]))
        splits[split] += indices
        missing[split] -= set_counts
    return splits, missing


def _assign_singles(
    labels: NDArray[np.int64],
    keys: Sequence[bytes],
    copies: Sequence[Sequence[int]],
    missing: NDArray[np.float64],
    splits: list[list[int]],
) -> None:
    """Add the samples without copies to the splits, class by class, in the order of their keys."""
    is_single = np.ones(len(labels), bool)
    for indices in copies:
        is_single[indices] = False
    order = np.array(sorted(np.flatnonzero(is_single).tolist(), key=keys.__getitem__), np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        ends = np.cumsum(np.maximum(missing[:-1, label], 0)).astype(int)
        for split, part in zip(splits, np.split(members, ends), strict=True):
            split += part.tolist()
