"""The index of one shard: where its images lie and what they are, from one reading that refuses hostile archives."""

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

from convatlas.data.images import decode
from convatlas.data.images.decode import EncodedImage, UnreadableImage
from convatlas.data.sources import content_hash
from convatlas.data.sources.labels import encode_labels, validate_class_name
from convatlas.errors import UserError, printable
from convatlas.storage.cache import cached

FORMAT = 1  # of what is remembered


LABELS = (".cls", ".json", ".txt")  # the first that a sample has is taken: .txt is often a caption beside a class


MAX_SHARDS, MAX_MEMBERS = 100_000, 1_000_000


MAX_IMAGE_BYTES, MAX_LABEL_BYTES = 512 << 20, 1 << 20  # bytes


COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


BLOCK = 512


class ShardIndex(msgspec.Struct, frozen=True):
    """Where a shard's images lie and what they are: numbers as little-endian bytes, because there are many."""

    names: list[str]
    classes: tuple[str, ...]
    labels: bytes  # int64: places in `classes`
    offsets: bytes  # int64
    sizes: bytes  # int64
    content_hashes: bytes  # fingerprints of the images, one after the other
    all_grayscale: bool  # whether every image is, that can be read


@dataclass
class Sample:
    """What a shard holds under one key."""

    image: tuple[str, int, int, bytes] | None = None  # name, offset, size, fingerprint
    labels: dict[str, str] = field(default_factory=dict)  # by extension


def cached_index(path: Path) -> tuple[list[int], ShardIndex]:
    with open(path, "rb", buffering=1 << 20) as file:
        state = shard_stamp(file.fileno())
        return state, cached("shards", str(path), state, ShardIndex, lambda: index_shard(path, file))


def shard_stamp(file: int) -> list[int]:
    status = os.fstat(file)
    return [FORMAT, status.st_size, status.st_mtime_ns]


def index_shard(path: Path, file: BinaryIO) -> ShardIndex:
    """Through a shard once. Raises UserError for what is no plain, whole archive, or holds what no honest one does."""
    samples: dict[str, Sample] = {}
    grey = True
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            end = 0
            for count in range(MAX_MEMBERS + 1):
                member = archive.next()
                if member is None:
                    break
                if count == MAX_MEMBERS:
                    raise UserError(f"{printable(path)} has more than {MAX_MEMBERS:,} members: cut it into smaller shards")
                name = _safe_name(member, end, path)
                end = member.offset_data + (-(-member.size // BLOCK) * BLOCK if member.isreg() else 0)
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
                if member.isdir():
                    continue
                key, kind = _key(name)
                if kind in decode.EXTENSIONS:
                    sample = samples.setdefault(key, Sample())
                    if sample.image:
                        raise UserError(f"{printable(path)} has two images with the key {printable(key)}: expected one for a sample")
                    data = _content(archive, member, MAX_IMAGE_BYTES, path)
                    sample.image = name, member.offset_data, member.size, content_hash.content_hash(data)
                    grey = grey and _is_grayscale(data, name)
                elif kind in LABELS:
                    labels = samples.setdefault(key, Sample()).labels
                    if kind in labels:
                        raise UserError(f"{printable(path)} has the member {printable(name)} twice: expected one for a sample")
                    text = _label(kind, _content(archive, member, MAX_LABEL_BYTES, path))
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


def _safe_name(member: tarfile.TarInfo, end: int, path: Path) -> str:
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


def _is_grayscale(data: bytes, name: str) -> bool:
    try:
        return decode.is_grayscale(EncodedImage(data, name))
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


def _index(samples: dict[str, Sample], grey: bool, path: Path) -> ShardIndex:
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
        labels.append(validate_class_name(sample.labels[kind], where))
    classes, codes = encode_labels(labels)
    return ShardIndex(
        [name for name, _, _, _ in found],
        classes,
        pack_int64(codes),
        pack_int64([offset for _, offset, _, _ in found]),
        pack_int64([size for _, _, size, _ in found]),
        b"".join(key for _, _, _, key in found),
        grey,
    )


def unpack_int64(data: bytes) -> NDArray[np.int64]:
    return np.frombuffer(data, "<i8").astype(np.int64)


def pack_int64(numbers: Sequence[int] | NDArray[np.int64]) -> bytes:
    return np.asarray(numbers, "<i8").tobytes()
