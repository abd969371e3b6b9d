"""The packed store: a data set in a few large files, which are mapped into memory and read in any order.

    manifest.json   format version, classes, splits, shards, hashes of index and names; written last
    index.bin       an ENTRY for each sample, little-endian: position, size, label, split, SHA-256
    names.jsonl     the name of each sample: a JSON string a line
    00000.bin ...   the samples' bytes: pixels (height, width, channels), or unchanged image files

docs/packed.md describes the format.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from convatlas.data.images.decode import DecodedImage, EncodedImage
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.sources.files import missing_data
from convatlas.data.sources.source import RawDataset
from convatlas.errors import UserError, printable
from convatlas.names import unescape_name
from convatlas.storage.records import Record, from_json
from convatlas.storage.regular_file import open_regular, read_regular
from convatlas.storage.sealed_json import is_sealed

FORMAT = 1
ENTRY = np.dtype(
    [
        ("shard", "<u4"),
        ("split", "<u4"),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("label", "<u4"),
        ("channels", "<u4"),
        ("sha256", "V32"),
    ]
)


class StoreManifest(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The content of manifest.json. `kind` says what the bytes of a sample are.

    `value_range`: the values that became 0 and 255, where pixels of more than 8 bits were packed.
    """

    format: int
    kind: Literal["pixels", "files"]
    source: str
    classes: tuple[str, ...]
    channels: int
    splits: tuple[str, ...]
    counts: tuple[int, ...]  # samples of each split
    shards: tuple[int, ...]  # bytes of each
    shorter: int | None  # the shorter side of pixels; None: as in the source
    mirrors: bool  # whether a mirrored image still belongs to its class
    index_sha256: str
    names_sha256: str
    value_range: ValueRange | None = None
    sha256: str = ""  # of all other bytes of the file; ConvAtlas 0.2.0 wrote none


@dataclass(frozen=True)
class PackedImages:
    """The images of an open store.

    The checksum of a sample is compared the first time that a process reads it.
    """

    path: Path
    manifest: StoreManifest
    index: NDArray[Any]  # of ENTRY

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        return f"{self.path}/{self._names[index]}"

    @cached_property
    def _names(self) -> Sequence[str]:
        return [
            unescape_name(msgspec.json.decode(line, type=str))
            for line in read_regular(self.path / "names.jsonl").splitlines()
        ]

    def __getstate__(self) -> dict[str, Any]:
        # without the mapped shards, which would be copied
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _shards(self) -> list[NDArray[np.uint8]]:
        return [
            _map_file(self.path / shard_name(number)) if size else np.zeros(0, np.uint8)
            for number, size in enumerate(self.manifest.shards)
        ]

    @cached_property
    def _checked(self) -> NDArray[np.bool_]:
        return np.zeros(len(self.index), bool)

    def image(self, index: int) -> DecodedImage | EncodedImage:
        """The image at `index`. Raises UserError for a sample that is damaged."""
        # all fields at once: each access to one would cost as much
        shard, _, start, length, height, width, _, channels, sha256 = self.index[index].item()
        data = self._shards[shard][start : start + length]
        if not self._checked[index]:
            if hashlib.sha256(data).digest() != sha256:
                raise UserError(
                    f"{printable(self.name(index))} is damaged: its checksum differs from the index; pack "
                    f"{self.path} again"
                )
            self._checked[index] = True
        if self.manifest.kind == "files":
            return EncodedImage(data.tobytes(), self.name(index))
        return DecodedImage(data.reshape(height, width, channels))


def shard_name(number: int) -> str:
    return f"{number:05d}.bin"


def _map_file(file: Path) -> NDArray[np.uint8]:
    # a plain array over the mapping, because slicing a memmap is ten times slower
    with open_regular(file) as stream:
        return np.asarray(np.memmap(stream, np.uint8, "r"))


def open_packed(path: Path) -> RawDataset:
    """Open a store. Raises UserError for one that is incomplete, damaged or of another format version."""
    manifest, index, names, sizes = _read_files(path)
    for name, content, digest in (
        ("index.bin", index, manifest.index_sha256),
        ("names.jsonl", names, manifest.names_sha256),
    ):
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError(
                f"{printable(path / name)} is damaged: its checksum differs from the manifest; pack the data "
                "again"
            )
    for number, (size, expected) in enumerate(zip(sizes, manifest.shards, strict=True)):
        if size != expected:
            raise UserError(
                f"{printable(path / shard_name(number))} has {size:,} bytes, expected {expected:,}: pack the "
                "data again"
            )
    entries = np.frombuffer(index, ENTRY)
    if not _is_consistent(manifest, entries):
        raise UserError(
            f"{printable(path / 'index.bin')} does not belong to these shards: pack the data again"
        )
    return RawDataset(
        name=f"packed:{path}",
        classes=manifest.classes,
        channels=manifest.channels,
        images=PackedImages(path, manifest, entries),
        labels=entries["label"].astype(np.int64),
        content_hashes=[entry.tobytes()[:16] for entry in entries["sha256"]],
        splits={
            name: np.flatnonzero(entries["split"] == number) for number, name in enumerate(manifest.splits)
        },
        hflip_safe=manifest.mirrors,
        published=True,  # `data pack` has decided
        root=path,
        value_range=manifest.value_range,
    )


def _read_files(path: Path) -> tuple[StoreManifest, bytes, bytes, list[int]]:
    """The manifest, the content of index.bin and of names.jsonl, and the sizes of the shards.

    Raises UserError for files that are missing.
    """
    if not path.is_dir():
        raise missing_data(path, "is not a folder", "one that data pack wrote")
    file = path / "manifest.json"
    try:
        data = read_regular(file)
        header = from_json(data, dict[str, Any], str(file))
        version = header.get("format")
        if version != FORMAT:
            raise UserError(
                f"{printable(file)} has format version {version}: this ConvAtlas reads version {FORMAT}; "
                "pack the data again"
            )
        if "sha256" in header and not is_sealed(data):
            raise UserError(f"{printable(file)} is damaged or was changed: pack the data again")
        manifest = from_json(data, StoreManifest, str(file))
        index = read_regular(path / "index.bin")
        names = read_regular(path / "names.jsonl")
        sizes = [(path / shard_name(number)).stat().st_size for number in range(len(manifest.shards))]
    except OSError as error:
        hint = "expected a folder of data pack"
        if (path / "plan.json").exists():
            hint = "packing it was not finished: run data pack again"
        raise UserError(
            f"{printable(path)} cannot be read ({printable(error.filename)}: {error.strerror}): {hint}"
        ) from None
    return manifest, index, names, sizes


def _is_consistent(manifest: StoreManifest, entries: NDArray[Any]) -> bool:
    """Whether all samples lie in the shards and have labels, splits and shapes that exist."""
    if len(entries) != sum(manifest.counts):
        return False
    sizes = np.array(manifest.shards, np.uint64)
    if not bool(
        (entries["shard"] < len(sizes)).all()
        and (entries["label"] < len(manifest.classes)).all()
        and (entries["split"] < len(manifest.splits)).all()
        and (entries["offset"] <= sizes[entries["shard"]]).all()
        and (entries["length"] <= sizes[entries["shard"]] - entries["offset"]).all()
    ):
        return False
    if manifest.kind == "files":
        return True
    height, width, channels = (entries[name].astype(np.uint64) for name in ("height", "width", "channels"))
    return bool((height * width * channels == entries["length"]).all() and (height * width > 0).all())
