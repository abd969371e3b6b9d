"""Local shards in WebDataset's layout: tar archives in which the members `key.jpg` and `key.cls` are a sample.

Every shard is read through once, in order and never extracted; where its images lie is remembered, and they are then read at random.
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
from convatlas.data.sources.labels import are_numbers, sort_classes
from convatlas.data.sources.source import SPLIT_NAMES, RawDataset
from convatlas.data.sources.tar_index import (
    MAX_LABEL_BYTES,
    MAX_SHARDS,
    cached_index,
    shard_stamp,
    unpack_int64,
)
from convatlas.errors import UserError, printable
from convatlas.runtime.progress import track


@dataclass(frozen=True)
class TarImages:
    """Images in uncompressed archives. A file is opened for every image, which costs microseconds beside decoding's milliseconds:
    nothing stays open that a fork, a pickle or a limit on open files could meet."""

    files: Sequence[Path]
    stamps: Sequence[list[int]]
    names: Sequence[Sequence[str]]  # of every shard's images
    starts: NDArray[np.int64]  # of every shard: its first image, and last the number of all
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def name(self, index: int) -> str:
        shard = self._shard(index)
        return f"{self.files[shard]}/{self.names[shard][index - self.starts[shard]]}"

    def image(self, index: int) -> EncodedImage:
        """Raises UserError for a shard that has changed: that is no fault of the image."""
        shard = self._shard(index)
        path = self.files[shard]
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if shard_stamp(file) != self.stamps[shard]:
                raise UserError(f"{printable(path)} was changed while it is in use: start again")
            data = os.pread(file, int(self.sizes[index]), int(self.offsets[index]))
        finally:
            os.close(file)
        return EncodedImage(data, self.name(index))

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self.starts, index, "right")) - 1


def open_webdataset(pattern: str) -> RawDataset:
    """Shards by a path with shell wildcards, `{000..012}` or `{a,b}`. Raises UserError for what is missing, damaged or hostile."""
    files = _files(pattern)
    home = Path(os.path.commonpath([file.parent for file in files]))
    splits = _splits(files, home)
    states, indexes = [], []
    for file in track(files, len(files), "reading shards once"):
        state, index = cached_index(file)
        states.append(state)
        indexes.append(index)
    counts = [len(index.names) for index in indexes]
    if not sum(counts):
        raise UserError(f"{printable(pattern)} holds no images: expected members such as key.jpg and key.cls")
    classes = sort_classes(set().union(*(index.classes for index in indexes)))
    place = {name: number for number, name in enumerate(classes)}
    labels = [np.array([place[name] for name in index.classes], np.int64)[unpack_int64(index.labels)] for index in indexes]
    keys = b"".join(index.content_hashes for index in indexes)
    starts = np.cumsum([0, *counts], dtype=np.int64)
    parts = {part: [np.arange(starts[i], starts[i + 1]) for i, split in enumerate(splits) if split == part] for part in set(splits)}
    return RawDataset(
        name=f"tar:{pattern}",
        classes=_named(classes, home / "classes.txt"),
        channels=1 if all(index.all_grayscale for index in indexes) else 3,
        images=TarImages(
            files,
            states,
            [index.names for index in indexes],
            starts,
            np.concatenate([unpack_int64(index.offsets) for index in indexes]),
            np.concatenate([unpack_int64(index.sizes) for index in indexes]),
        ),
        labels=np.concatenate(labels),
        content_hashes=[keys[at : at + content_hash.LENGTH] for at in range(0, len(keys), content_hash.LENGTH)],
        splits={part: np.concatenate(indices) for part, indices in parts.items() if part},
        root=home,
    )


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern's braces stand for, as a shell writes them."""
    before, _, rest = pattern.partition("{")
    inner, closed, after = rest.partition("}")
    numbers = re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", inner)
    if not closed or not (numbers or "," in inner):
        return [pattern]
    choices: Sequence[str] = inner.split(",")
    if numbers:
        first, last = numbers.groups()
        many = int(last) - int(first) + 1
        if not 0 < many <= MAX_SHARDS:
            raise UserError(f"{{{inner}}} stands for {max(many, 0):,} shards: expected a range that rises, of at most {MAX_SHARDS:,}")
        width = max(len(first), len(last)) if re.match("0.", first) or re.match("0.", last) else 0
        choices = [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
    ends = expand_braces(after)
    if len(choices) * len(ends) > MAX_SHARDS:
        raise UserError(f"{printable(pattern)} stands for more than {MAX_SHARDS:,} shards")
    return [before + choice + end for choice in choices for end in ends]


def _files(pattern: str) -> list[Path]:
    files: dict[Path, None] = {}
    for name in expand_braces(pattern):
        found = [name] if os.path.exists(name) else sorted(glob.glob(name))
        if not found:
            raise UserError(f"no shard matches {printable(name)}: expected the path of tar files, such as shards/train-{{000..012}}.tar")
        files.update((Path(os.path.abspath(file)), None) for file in found)
    folder = next((file for file in files if not file.is_file()), None)
    if folder:
        raise UserError(f"{printable(folder)} is not a file: expected the path of tar files, such as {printable(folder)}/*.tar")
    return sorted(files)


def _splits(files: Sequence[Path], home: Path) -> list[str]:
    """The split that each shard's name speaks of, whole words between what are no letters; empty where none does."""
    splits = []
    for file in files:
        inner = str(file.relative_to(home))
        named = {SPLIT_NAMES[word] for word in re.findall(r"[^\W\d_]+", inner.lower()) if word in SPLIT_NAMES}
        if len(named) > 1:
            raise UserError(f"{printable(file)} is named after several splits, {' and '.join(sorted(named))}: rename it after one of them")
        splits.append(named.pop() if named else "")
    if "" in splits and any(splits):
        without = files[splits.index("")]
        raise UserError(f"{printable(without)} is named after no split, and other shards are: name all after train, val or test, or none")
    return splits


def _named(classes: tuple[str, ...], file: Path) -> tuple[str, ...]:
    """The names of classes that are numbers, where a list of them lies beside the shards."""
    if not are_numbers(classes) or not file.is_file():
        return classes
    if file.stat().st_size > MAX_LABEL_BYTES:
        raise UserError(f"{printable(file)} is too large for a list of classes: expected one name a line")
    names = [line.strip() for line in file.read_text("utf-8", errors="replace").splitlines()]
    used = [int(number) for number in classes]
    wrong = next((number for number in used if not 0 <= number < len(names) or not names[number]), None)
    if wrong is not None:
        raise UserError(f"{printable(file)} names no class {wrong}, which the shards hold: expected one name a line, from 0")
    named = tuple(names[number] for number in used)
    if len(set(named)) < len(named):
        twice = next(name for i, name in enumerate(named) if name in named[:i])
        raise UserError(f"{printable(file)} gives the name {printable(twice)} twice: every class needs one of its own")
    return named
