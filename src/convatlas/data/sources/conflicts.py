"""Samples with the same content and different classes: no network can learn both, and no score is fair."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from convatlas.data.dataset import ImageSource
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.errors import UserError, printable

MAX_PAIRS = 3  # that a message names


def find_conflicts(
    images: ImageSource,
    labels: NDArray[np.int64],
    content_hashes: Sequence[bytes],
    indices: NDArray[np.int64],
) -> list[list[int]]:
    """The sets of samples among `indices` that have one content and several classes.

    Content that is no image, such as that of empty files, is left to the list of broken files.
    """
    first: dict[bytes, int] = {}  # the label of the first sample with each content
    conflicting = set()
    for index, label in zip(indices.tolist(), labels[indices].tolist(), strict=True):
        if first.setdefault(content_hashes[index], label) != label:
            conflicting.add(content_hashes[index])
    if not conflicting:
        return []
    members: dict[bytes, list[int]] = {}
    for index in dict.fromkeys(indices.tolist()):
        if content_hashes[index] in conflicting:
            members.setdefault(content_hashes[index], []).append(index)
    return [samples for samples in members.values() if _is_readable(images, samples[0])]


def describe_conflicts(
    conflicts: Sequence[Sequence[int]], images: ImageSource, target_name: Callable[[int], str]
) -> str:
    """`dog/1.jpg (dog) = cat/7.jpg (cat), and 2 more pairs`."""
    pairs = []
    for samples in conflicts[:MAX_PAIRS]:
        first = target_name(samples[0])
        other = next(index for index in samples if target_name(index) != first)
        a, b = (f"{printable(images.name(i))} ({printable(target_name(i))})" for i in (samples[0], other))
        pairs.append(f"{a} = {b}")
    more = len(conflicts) - MAX_PAIRS
    return "; ".join(pairs) + (f"; and {more:,} more" if more > 0 else "")


def _is_readable(images: ImageSource, index: int) -> bool:
    try:
        image = images.image(index)
        image.decode(1, (1, 1))
    except UnreadableImage:
        return False
    except UserError:  # a store that is damaged, or pixels of other channels: reading them reports it
        return True
    return True
