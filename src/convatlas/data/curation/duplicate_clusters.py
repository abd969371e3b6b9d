"""Clusters of images that are equal or look alike: pairs that share an image belong together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class ImagePair(Protocol):
    """Two images with their splits and classes, as `check` reports them."""

    @property
    def files(self) -> tuple[str, str]: ...
    @property
    def splits(self) -> tuple[str, str]: ...
    @property
    def classes(self) -> tuple[str, str]: ...
    @property
    def distance(self) -> float: ...
    @property
    def identical(self) -> bool: ...


@dataclass(frozen=True)
class Cluster:
    """Images that are connected by pairs; `splits` and `classes` are those of each file.

    `distances` are the smallest and the largest of the pairs. `identical` means that all have equal bytes.
    """

    files: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    distances: tuple[float, float]
    identical: bool


def cluster_pairs(pairs: Sequence[ImagePair]) -> list[Cluster]:
    """The connected components of the pairs, in the order of their first pair."""
    parents: dict[str, str] = {}

    def root(file: str) -> str:
        while parents.setdefault(file, file) != file:
            parents[file] = parents[parents[file]]
            file = parents[file]
        return file

    for pair in pairs:
        first, second = map(root, pair.files)
        parents[second] = first
    pairs_by_root: dict[str, list[ImagePair]] = {}
    for pair in pairs:
        pairs_by_root.setdefault(root(pair.files[0]), []).append(pair)
    return [_cluster(members) for members in pairs_by_root.values()]


def _cluster(pairs: Sequence[ImagePair]) -> Cluster:
    images = {
        file: (split, class_name)
        for pair in pairs
        for file, split, class_name in zip(pair.files, pair.splits, pair.classes, strict=True)
    }
    distances = [pair.distance for pair in pairs]
    return Cluster(
        files=tuple(images),
        splits=tuple(split for split, _ in images.values()),
        classes=tuple(class_name for _, class_name in images.values()),
        distances=(min(distances), max(distances)),
        identical=all(pair.identical for pair in pairs),
    )
