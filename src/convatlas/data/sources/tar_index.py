"""The index of one shard: where its images lie, and their classes and hashes.

A shard is read once, from start to end; damaged and hostile archives are refused.
"""

import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from convatlas.data.images import decode
from convatlas.data.images.decode import EncodedImage
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.sources import content_hash
from convatlas.data.sources.labels import encode_labels, validate_class_name
from convatlas.data.sources.passed_over import extension_reason
from convatlas.data.sources.safe_tarfile import TAR_ERRORS, LimitedTarInfo
from convatlas.errors import UserError, printable
from convatlas.names import encodable
from convatlas.storage.cache import cached
from convatlas.storage.regular_file import open_regular

FORMAT = 4  # of the cached index
LABEL_EXTENSIONS = (".cls", ".json", ".txt")  # in order of preference: .txt is often a caption beside a class
MAX_MEMBERS = 1_000_000
MAX_IMAGE_BYTES = 512 << 20
MAX_LABEL_BYTES = 1 << 20
BLOCK = 512  # bytes: a header, and the unit of a member's content
COMPRESSIONS = {
    rb"\x1f\x8b": "gzip",
    rb"BZh[1-9]1AY&SY": "bzip2",
    rb"\xfd7zXZ": "xz",
    rb"\x28\xb5\x2f\xfd": "zstd",
}


class ShardIndex(msgspec.Struct, frozen=True):
    """The images of a shard. Numbers are little-endian bytes, because a shard has very many."""

    names: list[str]
    classes: tuple[str, ...]
    labels: bytes  # int64: indices into `classes`
    offsets: bytes  # int64
    sizes: bytes  # int64
    content_hashes: bytes  # of all images, one after the other
    all_grayscale: bool  # whether every readable image has one channel
    passed_over: dict[str, int]  # the members of samples without an image, by reason


class ImageMember(NamedTuple):
    """An image file in a shard."""

    name: str
    offset: int
    size: int
    content_hash: bytes


@dataclass
class Sample:
    """The members of a shard that share a key."""

    image: ImageMember | None = None
    labels: dict[str, str | None] = field(
        default_factory=dict
    )  # by extension; None for a member without a label
    others: list[str] = field(default_factory=list)  # the names of further members


class Annotation(msgspec.Struct):
    """The content of a .json member; other keys are ignored."""

    label: int | str | None = None
    cls: int | str | None = None


def cached_index(path: Path) -> tuple[list[int], ShardIndex]:
    """The stamp and the index of a shard. The index comes from the cache if the shard has not changed.

    Raises UserError like `index_shard`.
    """
    with open_regular(path, 1 << 20) as file:
        stamp = shard_stamp(file.fileno())
        return stamp, cached("shards", str(path), stamp, ShardIndex, lambda: index_shard(path, file))


def shard_stamp(file: int) -> list[int]:
    """Numbers that change with an open file: the index format, the size and the modification time."""
    status = os.fstat(file)
    return [FORMAT, status.st_size, status.st_mtime_ns]


def index_shard(path: Path, file: BinaryIO) -> ShardIndex:
    """Read a shard once and return its index.

    Raises UserError for an archive that is compressed, incomplete or damaged, and for members that no plain
    shard has: links, devices, names that lead out of it, two images with one key, labels that are missing.
    """
    samples: dict[str, Sample] = {}
    all_grayscale = True
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=LimitedTarInfo, encoding="utf-8") as archive:
            for member, name in _iterate_members(archive, file, path):
                key, extension = _split_key(name)
                if extension in decode.EXTENSIONS:
                    data = _read_content(archive, member, MAX_IMAGE_BYTES, path)
                    hash_ = content_hash.content_hash(data)
                    _add_image(samples, key, ImageMember(name, member.offset_data, member.size, hash_), path)
                    all_grayscale = all_grayscale and _may_be_grayscale(data, name)
                elif extension in LABEL_EXTENSIONS:
                    data = _read_content(archive, member, MAX_LABEL_BYTES, path)
                    _add_label(samples, key, extension, data, name, path)
                else:
                    samples.setdefault(key, Sample()).others.append(name)
    except TAR_ERRORS as error:
        if compression := _compression(file):
            raise UserError(
                f"{printable(path)} is compressed with {compression}: images are read at random, so "
                "uncompress it first"
            ) from None
        reason = printable(error) or type(error).__name__
        raise UserError(
            f"{printable(path)} is not a complete tar archive ({reason}): write or copy it again"
        ) from None
    return _index(samples, all_grayscale, path)


def _iterate_members(
    archive: tarfile.TarFile, file: BinaryIO, path: Path
) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Yield every plain file in an archive with its safe name; after the last one, check the end."""
    end = 0  # of the members so far
    for count in range(MAX_MEMBERS + 1):
        member = archive.next()
        if member is None:
            break
        if count == MAX_MEMBERS:
            raise UserError(
                f"{printable(path)} has more than {MAX_MEMBERS:,} members: cut it into smaller shards"
            )
        name = _safe_name(member, end, path)
        end = member.offset_data + (-(-member.size // BLOCK) * BLOCK if member.isreg() else 0)
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
        if member.isreg():
            yield member, name
    _check_end(file, end)


def _add_image(samples: dict[str, Sample], key: str, image: ImageMember, path: Path) -> None:
    sample = samples.setdefault(key, Sample())
    if sample.image:
        raise UserError(
            f"{printable(path)} has two images with the key {printable(key)}: expected one for a sample"
        )
    sample.image = image


def _add_label(
    samples: dict[str, Sample], key: str, extension: str, data: bytes, name: str, path: Path
) -> None:
    labels = samples.setdefault(key, Sample()).labels
    if extension in labels:
        raise UserError(
            f"{printable(path)} has the member {printable(name)} twice: expected one for a sample"
        )
    labels[extension] = _parse_label(extension, data)


def _safe_name(member: tarfile.TarInfo, end: int, path: Path) -> str:
    """A member's name without `./`. `end` is where the member before it ends."""
    subject = f"{printable(path)} has the member {printable(member.name)}"
    if member.size < 0 or member.offset_data < end:
        raise UserError(f"{subject}, which lies about its size: the archive is damaged or made to do harm")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise UserError(f"{subject}, which is no plain file: links and devices have no place in a shard")
    if member.name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", member.name):
        raise UserError(
            f"{subject}, which leads out of the archive: name members from the archive's top, without '..'"
        )
    return str(PurePosixPath(member.name))


def _check_end(file: BinaryIO, end: int) -> None:
    """Raise tarfile.ReadError unless at least two blocks of zeros, and nothing else, follow the last member.

    tarfile itself takes damage between members for the end, and ignores everything after the end.
    """
    file.seek(end)
    if file.read(2 * BLOCK) != bytes(2 * BLOCK):
        raise tarfile.ReadError(f"no member and no end of the archive at byte {end:,}")
    while chunk := file.read(1 << 20):
        if chunk.count(0) != len(chunk):
            raise tarfile.ReadError(f"data after its end at byte {end:,}, as in archives that were joined")


def _compression(file: BinaryIO) -> str | None:
    """The program that compressed a file. None for a tar archive, whatever its first member is called."""
    start = os.pread(file.fileno(), BLOCK, 0)
    if start[257:262] == b"ustar":
        return None
    return next((program for magic, program in COMPRESSIONS.items() if re.match(magic, start)), None)


def _split_key(name: str) -> tuple[str, str]:
    """The key and the extension: `folder/0001.seg.PNG` -> (`folder/0001`, `.seg.png`)."""
    folder, slash, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")
    return folder + slash + stem, (dot + extension).lower()


def _read_content(archive: tarfile.TarFile, member: tarfile.TarInfo, max_bytes: int, path: Path) -> bytes:
    if member.size > max_bytes:
        raise UserError(
            f"{printable(path)}: {printable(member.name)} has {member.size:,} bytes, more than the "
            f"{max_bytes:,} that are read"
        )
    stream = archive.extractfile(member)
    assert stream is not None
    data = stream.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} is cut short")
    return data


def _may_be_grayscale(data: bytes, name: str) -> bool:
    """True for an image with one channel, and for a file that is no readable image."""
    try:
        return decode.is_grayscale(EncodedImage(data, name))
    except UnreadableImage:
        return True


def _parse_label(extension: str, data: bytes) -> str | None:
    """The class in a label's member; None if it holds none."""
    try:
        if extension != ".json":
            return data.decode()
        annotation = msgspec.json.decode(data, type=Annotation)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    label = annotation.label if annotation.label is not None else annotation.cls
    return None if label is None else str(label)


def _index(samples: dict[str, Sample], all_grayscale: bool, path: Path) -> ShardIndex:
    images: list[ImageMember] = []
    labels: list[str] = []
    passed_over: Counter[str] = Counter()
    for key, sample in samples.items():
        if sample.image is None:
            others = sample.others or [f"{key}{extension}" for extension in sample.labels]
            passed_over.update(map(extension_reason, others))
            continue
        subject = f"{printable(path)}: {printable(sample.image.name)}"
        texts = [sample.labels.get(extension) for extension in LABEL_EXTENSIONS]
        label = next((text for text in texts if text is not None), None)
        if label is None:
            key = printable(key)
            raise UserError(
                f"{subject} has no label: expected {key}.cls or {key}.txt with a class, or {key}.json "
                "with a 'label'"
            )
        images.append(sample.image)
        labels.append(validate_class_name(label, subject))
    classes, codes = encode_labels(labels)
    return ShardIndex(
        names=[encodable(image.name) for image in images],
        classes=classes,
        labels=pack_int64(codes),
        offsets=pack_int64([image.offset for image in images]),
        sizes=pack_int64([image.size for image in images]),
        content_hashes=b"".join(image.content_hash for image in images),
        all_grayscale=all_grayscale,
        passed_over=dict(passed_over),
    )


def unpack_int64(data: bytes) -> NDArray[np.int64]:
    return np.frombuffer(data, "<i8").astype(np.int64)


def pack_int64(numbers: Sequence[int] | NDArray[np.int64]) -> bytes:
    return np.asarray(numbers, "<i8").tobytes()
