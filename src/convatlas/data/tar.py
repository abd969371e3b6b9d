"""Local shards in WebDataset's layout: tar archives in which the members `key.jpg` and `key.cls` are a sample.

Every shard is read through once, in order and never extracted; where its images lie is remembered, and they are then read at random.
Format: github.com/webdataset/webdataset, "The WebDataset Format"; POSIX.1-2001 for tar.
"""

import glob
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from convatlas.data import fingerprints, images
from convatlas.data.found import SPLITS, Found
from convatlas.data.images import Encoded, UnreadableImage
from convatlas.data.labels import are_numbers, checked, in_order, numbered
from convatlas.data.remembered import remembered
from convatlas.errors import UserError, printable
from convatlas.runtime.progress import progress

FORMAT = 1  # of what is remembered
LABELS = (".cls", ".json", ".txt")  # the first that a sample has is taken: .txt is often a caption beside a class
MOST_SHARDS, MOST_MEMBERS = 100_000, 1_000_000
MOST_IMAGE, MOST_LABEL = 512 << 20, 1 << 20  # bytes
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
BLOCK = 512


class Index(msgspec.Struct, frozen=True):
    """Where a shard's images lie and what they are: numbers as little-endian bytes, because there are many."""

    names: list[str]
    classes: tuple[str, ...]
    labels: bytes  # int64: places in `classes`
    offsets: bytes  # int64
    sizes: bytes  # int64
    keys: bytes  # fingerprints of the images, one after the other
    grey: bool  # whether every image is, that can be read


@dataclass
class Sample:
    """What a shard holds under one key."""

    image: tuple[str, int, int, bytes] | None = None  # name, offset, size, fingerprint
    labels: dict[str, str] = field(default_factory=dict)  # by extension


@dataclass(frozen=True)
class Shards:
    """Images in uncompressed archives. A file is opened for every image, which costs microseconds beside decoding's milliseconds:
    nothing stays open that a fork, a pickle or a limit on open files could meet."""

    files: Sequence[Path]
    states: Sequence[list[int]]
    names: Sequence[Sequence[str]]  # of every shard's images
    starts: NDArray[np.int64]  # of every shard: its first image, and last the number of all
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def name(self, index: int) -> str:
        shard = self._shard(index)
        return f"{self.files[shard]}/{self.names[shard][index - self.starts[shard]]}"

    def picture(self, index: int) -> Encoded:
        """Raises UserError for a shard that has changed: that is no fault of the image."""
        shard = self._shard(index)
        path = self.files[shard]
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _state(file) != self.states[shard]:
                raise UserError(f"{printable(path)} was changed while it is in use: start again")
            data = os.pread(file, int(self.sizes[index]), int(self.offsets[index]))
        finally:
            os.close(file)
        return Encoded(data, self.name(index))

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self.starts, index, "right")) - 1


def find(pattern: str) -> Found:
    """Shards by a path with shell wildcards, `{000..012}` or `{a,b}`. Raises UserError for what is missing, damaged or hostile."""
    files = _files(pattern)
    home = Path(os.path.commonpath([file.parent for file in files]))
    splits = _splits(files, home)
    states, indexes = [], []
    for file in progress(files, len(files), "reading shards once"):
        state, index = _remembered(file)
        states.append(state)
        indexes.append(index)
    counts = [len(index.names) for index in indexes]
    if not sum(counts):
        raise UserError(f"{printable(pattern)} holds no images: expected members such as key.jpg and key.cls")
    classes = in_order(set().union(*(index.classes for index in indexes)))
    place = {name: number for number, name in enumerate(classes)}
    labels = [np.array([place[name] for name in index.classes], np.int64)[_numbers(index.labels)] for index in indexes]
    keys = b"".join(index.keys for index in indexes)
    starts = np.cumsum([0, *counts], dtype=np.int64)
    parts = {part: [np.arange(starts[i], starts[i + 1]) for i, split in enumerate(splits) if split == part] for part in set(splits)}
    return Found(
        name=f"tar:{pattern}",
        classes=_named(classes, home / "classes.txt"),
        channels=1 if all(index.grey for index in indexes) else 3,
        images=Shards(
            files,
            states,
            [index.names for index in indexes],
            starts,
            np.concatenate([_numbers(index.offsets) for index in indexes]),
            np.concatenate([_numbers(index.sizes) for index in indexes]),
        ),
        labels=np.concatenate(labels),
        keys=[keys[at : at + fingerprints.LENGTH] for at in range(0, len(keys), fingerprints.LENGTH)],
        parts={part: np.concatenate(indices) for part, indices in parts.items() if part},
        home=home,
    )


def expand(pattern: str) -> list[str]:
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
        if not 0 < many <= MOST_SHARDS:
            raise UserError(f"{{{inner}}} stands for {max(many, 0):,} shards: expected a range that rises, of at most {MOST_SHARDS:,}")
        width = max(len(first), len(last)) if re.match("0.", first) or re.match("0.", last) else 0
        choices = [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
    ends = expand(after)
    if len(choices) * len(ends) > MOST_SHARDS:
        raise UserError(f"{printable(pattern)} stands for more than {MOST_SHARDS:,} shards")
    return [before + choice + end for choice in choices for end in ends]


def _files(pattern: str) -> list[Path]:
    files: dict[Path, None] = {}
    for name in expand(pattern):
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
        named = {SPLITS[word] for word in re.findall(r"[^\W\d_]+", inner.lower()) if word in SPLITS}
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
    if file.stat().st_size > MOST_LABEL:
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


def _remembered(path: Path) -> tuple[list[int], Index]:
    with open(path, "rb", buffering=1 << 20) as file:
        state = _state(file.fileno())
        return state, remembered("shards", str(path), state, Index, lambda: _read(path, file))


def _state(file: int) -> list[int]:
    status = os.fstat(file)
    return [FORMAT, status.st_size, status.st_mtime_ns]


def _read(path: Path, file: BinaryIO) -> Index:
    """Through a shard once. Raises UserError for what is no plain, whole archive, or holds what no honest one does."""
    samples: dict[str, Sample] = {}
    grey = True
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            end = 0
            for count in range(MOST_MEMBERS + 1):
                member = archive.next()
                if member is None:
                    break
                if count == MOST_MEMBERS:
                    raise UserError(f"{printable(path)} has more than {MOST_MEMBERS:,} members: cut it into smaller shards")
                name = _harmless(member, end, path)
                end = member.offset_data + (-(-member.size // BLOCK) * BLOCK if member.isreg() else 0)
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
                if member.isdir():
                    continue
                key, kind = _key(name)
                if kind in images.EXTENSIONS:
                    sample = samples.setdefault(key, Sample())
                    if sample.image:
                        raise UserError(f"{printable(path)} has two images with the key {printable(key)}: expected one for a sample")
                    data = _content(archive, member, MOST_IMAGE, path)
                    sample.image = name, member.offset_data, member.size, fingerprints.fingerprint(data)
                    grey = grey and _is_grey(data, name)
                elif kind in LABELS:
                    labels = samples.setdefault(key, Sample()).labels
                    if kind in labels:
                        raise UserError(f"{printable(path)} has the member {printable(name)} twice: expected one for a sample")
                    text = _label(kind, _content(archive, member, MOST_LABEL, path))
                    labels |= {} if text is None else {kind: text}
        file.seek(end)
        if file.read(2 * BLOCK) != bytes(2 * BLOCK):  # tarfile takes damage between members for the end
            raise tarfile.ReadError(f"no member and no end of the archive at byte {end:,}")
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError) as error:
        start = os.pread(file.fileno(), 8, 0)
        way = next((way for magic, way in COMPRESSED.items() if start.startswith(magic)), None)
        if way:
            raise UserError(f"{printable(path)} is compressed with {way}: images are read at random, so uncompress it first") from None
        raise UserError(f"{printable(path)} is not a whole tar archive ({printable(error)}): write or copy it again") from None
    return _index(samples, grey, path)


def _harmless(member: tarfile.TarInfo, end: int, path: Path) -> str:
    """A member's name without `./`."""
    where = f"{printable(path)} has the member {printable(member.name)}"
    if member.size < 0 or member.offset_data < end:
        raise UserError(f"{where}, which lies about its size: the archive is damaged or made to do harm")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise UserError(f"{where}, which is no plain file: links and devices have no place in a shard")
    if member.name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", member.name):
        raise UserError(f"{where}, which leads out of the archive: name members from the archive's top, without '..'")
    return str(PurePosixPath(member.name))


def _key(name: str) -> tuple[str, str]:
    """`folder/0001.seg.png` -> (`folder/0001`, `.seg.png`)."""
    folder, slash, last = name.rpartition("/")
    stem, dot, kind = last.partition(".")
    return folder + slash + stem, (dot + kind).lower()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, most: int, path: Path) -> bytes:
    if member.size > most:
        raise UserError(f"{printable(path)}: {printable(member.name)} has {member.size:,} bytes, more than the {most:,} that are read")
    stream = archive.extractfile(member)
    assert stream is not None
    data = stream.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} is cut short")
    return data


def _is_grey(data: bytes, name: str) -> bool:
    try:
        return images.is_grey(Encoded(data, name))
    except UnreadableImage:
        return True  # says nothing against it


class Annotation(msgspec.Struct):
    label: int | str | None = None
    cls: int | str | None = None


def _label(kind: str, data: bytes) -> str | None:
    """The text of a label's member; None where it holds none."""
    try:
        if kind != ".json":
            return data.decode()
        found = msgspec.json.decode(data, type=Annotation)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    label = found.label if found.label is not None else found.cls
    return None if label is None else str(label)


def _index(samples: dict[str, Sample], grey: bool, path: Path) -> Index:
    found, labels = [], []
    for key, sample in samples.items():
        if sample.image is None:
            continue
        where = f"{printable(path)}: {printable(sample.image[0])}"
        kind = next((kind for kind in LABELS if kind in sample.labels), None)
        if kind is None:
            key = printable(key)
            raise UserError(f"{where} has no label: expected {key}.cls or {key}.txt with a class, or {key}.json with a 'label'")
        found.append(sample.image)
        labels.append(checked(sample.labels[kind], where))
    classes, codes = numbered(labels)
    return Index(
        [name for name, _, _, _ in found],
        classes,
        _bytes(codes),
        _bytes([offset for _, offset, _, _ in found]),
        _bytes([size for _, _, size, _ in found]),
        b"".join(key for _, _, _, key in found),
        grey,
    )


def _bytes(numbers: Sequence[int] | NDArray[np.int64]) -> bytes:
    return np.asarray(numbers, "<i8").tobytes()


def _numbers(data: bytes) -> NDArray[np.int64]:
    return np.frombuffer(data, "<i8").astype(np.int64)
