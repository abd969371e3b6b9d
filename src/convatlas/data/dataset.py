"""A data set: classes by name, and splits of images with labels."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from convatlas.data.images import decode


class Images(Protocol):
    """A sequence of images, read by an array of indices (n,) -> uint8 (n, channels, height, width). A plain array is one."""

    def __len__(self) -> int: ...
    def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Files:
    """Images that stay in their files until a batch needs them, brought to one size."""

    paths: tuple[Path, ...]
    channels: int
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[np.uint8]:
        return np.stack([decode(self.paths[i], self.channels, self.size) for i in indices])


@dataclass(frozen=True)
class Split:
    images: Images
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """What to call a sample in a report: its file, where it has one."""
        return str(self.images.paths[index]) if isinstance(self.images, Files) else f"#{index}"


@dataclass(frozen=True)
class Dataset:
    """`splits` are train, val and test. `size` is (height, width) of every image; `digest` hashes all that a run reads of it."""

    name: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    splits: dict[str, Split]
    digest: str
    mirrors: bool = True  # whether a mirrored image is still of its class
    notes: tuple[str, ...] = ()  # what was decided on the way, to be said before a run


def content_keys(images: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """A hash of every image's bytes: an order of the samples that no seed and no file name changes."""
    return np.array([hashlib.sha256(image.tobytes()).digest()[:16] for image in images], dtype="S16")


def hold_out(labels: NDArray[np.int64], keys: Sequence[bytes] | NDArray[np.bytes_], fractions: Sequence[float]) -> list[NDArray[np.int64]]:
    """Indices of the parts that `fractions` ask for, and last of what remains: stratified by class, ordered by content hash."""
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(len(fractions) + 1)]
    order = np.argsort(np.asarray(keys), kind="stable")
    for label in np.unique(labels):
        members = order[labels[order] == label]
        ends = np.floor(np.cumsum([0.0, *fractions]) * len(members) + 0.5).astype(int)
        for part, start, end in zip(parts, ends, [*ends[1:], len(members)], strict=True):
            part.append(members[start:end])
    return [np.sort(np.concatenate(part)) for part in parts]
