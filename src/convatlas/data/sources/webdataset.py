"""Local shards in the WebDataset layout: tar archives in which `key.jpg` and `key.cls` are one sample.

Every shard is read once, in order, and never extracted; the positions of its images are cached, and the
images are then read in random order.
Format: github.com/webdataset/webdataset, "The WebDataset Format"; POSIX.1-2001 for tar.
"""

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.data.images.decode import EncodedImage
from convatlas.data.sources import content_hash
from convatlas.data.sources.braces import expand_braces
from convatlas.data.sources.class_names import read_class_names
from convatlas.data.sources.files import missing_data
from convatlas.data.sources.labels import are_numbers, sort_classes
from convatlas.data.sources.passed_over import PassedOver
from convatlas.data.sources.source import RawDataset
from convatlas.data.sources.split_names import SPLIT_NAMES
from convatlas.data.sources.tar_index import (
    MAX_LABEL_BYTES,
    ShardIndex,
    cached_index,
    shard_stamp,
    unpack_int64,
)
from convatlas.errors import UserError, printable
from convatlas.runtime.progress import track


@dataclass(frozen=True)
class TarImages:
    """Images in uncompressed archives.

    The archive is opened for every image, which takes microseconds beside the milliseconds of decoding: no
    file stays open that a fork, a pickle or the limit on open files could affect.
    """

    files: Sequence[Path]
    stamps: Sequence[list[int]]  # of the files
    names: Sequence[Sequence[str]]  # of the images of every shard
    starts: NDArray[
        np.int64
    ]  # (shards + 1,): the index of every shard's first image, and the number of images
    offsets: NDArray[np.int64]  # of every image, in bytes
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def name(self, index: int) -> str:
        shard = self._shard(index)
        return f"{self.files[shard]}/{self.names[shard][index - self.starts[shard]]}"

    def image(self, index: int) -> EncodedImage:
        """The image at `index`.

        Raises UnreadableImage; UserError for a shard that has changed or is gone, which is no fault of the
        image.
        """
        shard = self._shard(index)
        path = self.files[shard]
        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                stamp = shard_stamp(file)
                data = os.pread(file, int(self.sizes[index]), int(self.offsets[index]))
            finally:
                os.close(file)
        except OSError as error:
            raise UserError(
                f"{printable(path)} cannot be read any more ({error.strerror}): put it back and start again"
            ) from None
        if stamp != self.stamps[shard]:
            raise UserError(f"{printable(path)} was changed while it is in use: start again")
        return EncodedImage(data, self.name(index))

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self.starts, index, "right")) - 1


def open_webdataset(pattern: str) -> RawDataset:
    """Open the shards that match a path with shell wildcards, `{000..012}` or `{a,b}`.

    Raises UserError for shards that are missing, damaged or hostile.
    """
    files = _match_files(pattern)
    root = Path(os.path.commonpath([file.parent for file in files]))
    shard_splits = _splits_from_names(files, root)
    stamps: list[list[int]] = []
    indexes: list[ShardIndex] = []
    for file in track(files, len(files), "reading shards once"):
        stamp, index = cached_index(file)
        stamps.append(stamp)
        indexes.append(index)
    counts = [len(index.names) for index in indexes]
    if not sum(counts):
        raise UserError(f"{printable(pattern)} holds no images: expected members such as key.jpg and key.cls")
    starts = np.cumsum([0, *counts], dtype=np.int64)
    classes, labels = _merge_labels(indexes)
    hashes = b"".join(index.content_hashes for index in indexes)
    splits = {
        name: np.concatenate(
            [np.arange(starts[i], starts[i + 1]) for i, split in enumerate(shard_splits) if split == name]
        )
        for name in set(shard_splits) - {""}
    }
    return RawDataset(
        name=f"tar:{pattern}",
        classes=_read_class_names(classes, root / "classes.txt"),
        channels=1 if all(index.all_grayscale for index in indexes) else 3,
        images=TarImages(
            files,
            stamps,
            [index.names for index in indexes],
            starts,
            np.concatenate([unpack_int64(index.offsets) for index in indexes]),
            np.concatenate([unpack_int64(index.sizes) for index in indexes]),
        ),
        labels=labels,
        content_hashes=[
            hashes[start : start + content_hash.LENGTH]
            for start in range(0, len(hashes), content_hash.LENGTH)
        ],
        splits=splits,
        passed_over=tuple(
            PassedOver(str(file), reason)
            for file, index in zip(files, indexes, strict=True)
            for reason, count in index.passed_over.items()
            for _ in range(count)
        ),
        root=root,
    )


def _merge_labels(indexes: Sequence[ShardIndex]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The classes of all shards in order, and the label of every image as an index into them."""
    classes = sort_classes(set().union(*(index.classes for index in indexes)))
    code = {name: number for number, name in enumerate(classes)}
    labels = [
        np.array([code[name] for name in index.classes], np.int64)[unpack_int64(index.labels)]
        for index in indexes
    ]
    return classes, np.concatenate(labels)


def _match_files(pattern: str) -> list[Path]:
    """The files that a pattern names, sorted.

    Raises UserError for a name without a match, and for a folder.
    """
    files: set[Path] = set()
    for name in expand_braces(pattern):
        matches = [name] if os.path.exists(name) else glob.glob(name)
        if not matches:
            raise missing_data(
                name, "matches no shard", "the path of tar files, such as shards/train-{000..012}.tar"
            )
        files.update(Path(os.path.abspath(match)) for match in matches)
    for file in sorted(files):
        if not file.is_file():
            raise UserError(
                f"{printable(file)} is not a file: expected the path of tar files, such as "
                f"{printable(file)}/*.tar"
            )
    return sorted(files)


def _splits_from_names(files: Sequence[Path], root: Path) -> list[str]:
    """The split in the name of each shard, below `root`; empty if there is none.

    A split is a whole word between characters that are no letters, such as `train` in `photos-train_000.tar`.
    """
    splits = []
    for file in files:
        words = re.findall(r"[^\W\d_]+", str(file.relative_to(root)).lower())
        names = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
        if len(names) > 1:
            raise UserError(
                f"{printable(file)} is named after several splits, {' and '.join(sorted(names))}: "
                "rename it after one of them"
            )
        splits.append(names.pop() if names else "")
    if "" in splits and any(splits):
        unnamed = files[splits.index("")]
        raise UserError(
            f"{printable(unnamed)} is named after no split, and other shards are: name all after train, val "
            "or test, or none"
        )
    return splits


def _read_class_names(classes: tuple[str, ...], file: Path) -> tuple[str, ...]:
    """The names of classes that are numbers, from a file of class names; `classes` if there is no file."""
    if not are_numbers(classes) or not file.is_file():
        return classes
    names = read_class_names(file, MAX_LABEL_BYTES)
    numbers: dict[int, str] = {}  # as the shards write them
    for number in classes:
        index = int(number)
        if index not in names:
            raise UserError(
                f"{printable(file)} names no class {index}, which the shards hold: expected one name a line, "
                "from 0"
            )
        if index in numbers:
            raise UserError(
                f"the shards beside {printable(file)} write the class {index} as {numbers[index]} and as "
                f"{number}: write it in one way"
            )
        numbers[index] = number
    return tuple(names[index] for index in numbers)
