"""The packed store: a data set in a few large files that are mapped into memory and read by index, in any order.

    manifest.json   what it is: format version, classes, splits, shards, hashes of the index and the names; written last
    index.bin       a record of ENTRY a sample, little endian: where it lies, its size, label and split, the SHA-256 of its bytes
    names.jsonl     what each sample is called: a JSON string a line
    00000.bin ...   the samples' bytes, one after another: pixels (height, width, channels), or the image files as they were

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
from convatlas.data.sources.source import RawDataset
from convatlas.errors import UserError, printable
from convatlas.storage.records import Record, from_json

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


class StoreManifest(Record, frozen=True, kw_only=True):
    """`kind` is what a sample's bytes are; `shorter` the shorter side of pixels (None: as in the source)."""

    format: int
    kind: Literal["pixels", "files"]
    source: str
    classes: tuple[str, ...]
    channels: int
    splits: tuple[str, ...]
    counts: tuple[int, ...]  # samples of each split
    shards: tuple[int, ...]  # bytes of each
    shorter: int | None
    mirrors: bool
    index_sha256: str
    names_sha256: str


@dataclass(frozen=True)
class PackedImages:
    """A store, opened. A sample's checksum is compared the first time that a process reads it."""

    path: Path
    manifest: StoreManifest
    index: NDArray[Any]  # of ENTRY

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        return f"{self.path}/{self._names[index]}"

    @cached_property
    def _names(self) -> Sequence[str]:
        return [msgspec.json.decode(line, type=str) for line in (self.path / "names.jsonl").read_bytes().splitlines()]

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # without the mapped shards: they would be copied

    @cached_property
    def _shards(self) -> list[NDArray[np.uint8]]:
        return [_mapped(self.path / shard_name(i)) if size else np.zeros(0, np.uint8) for i, size in enumerate(self.manifest.shards)]

    @cached_property
    def _checked(self) -> NDArray[np.bool_]:
        return np.zeros(len(self.index), bool)

    def image(self, index: int) -> DecodedImage | EncodedImage:
        """Raises UserError for a sample that is not what was packed."""
        entry = self.index[index]
        start, length = int(entry["offset"]), int(entry["length"])
        data = self._shards[entry["shard"]][start : start + length]
        if not self._checked[index]:
            if hashlib.sha256(data).digest() != entry["sha256"].tobytes():
                raise UserError(f"{printable(self.name(index))} is damaged: its checksum differs from the index; pack {self.path} anew")
            self._checked[index] = True
        if self.manifest.kind == "files":
            return EncodedImage(data.tobytes(), self.name(index))
        return DecodedImage(data.reshape(int(entry["height"]), int(entry["width"]), int(entry["channels"])))


def shard_name(number: int) -> str:
    return f"{number:05d}.bin"


def _mapped(file: Path) -> NDArray[np.uint8]:
    return np.asarray(np.memmap(file, np.uint8, "r"))  # a plain array over the mapping: slicing a memmap is ten times slower


def open_packed(path: Path) -> RawDataset:
    """Raises UserError for what is no store, is of another version, or does not match its hashes."""
    file = path / "manifest.json"
    try:
        data = file.read_bytes()
        version = from_json(data, dict[str, Any], str(file)).get("format")
        if version != FORMAT:
            raise UserError(f"{printable(file)} has format version {version}: this ConvAtlas reads version {FORMAT}; pack the data anew")
        manifest = from_json(data, StoreManifest, str(file))
        index = (path / "index.bin").read_bytes()
        names = (path / "names.jsonl").read_bytes()
        sizes = [(path / shard_name(i)).stat().st_size for i in range(len(manifest.shards))]
    except OSError as error:
        hint = "packing it was not finished: run data pack again" if (path / "plan.json").exists() else "expected a folder of data pack"
        raise UserError(f"{printable(path)} cannot be read ({printable(error.filename)}: {error.strerror}): {hint}") from None
    for what, content, digest in (("index.bin", index, manifest.index_sha256), ("names.jsonl", names, manifest.names_sha256)):
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError(f"{printable(path / what)} is damaged: its checksum differs from the manifest; pack the data anew")
    for number, (size, expected) in enumerate(zip(sizes, manifest.shards, strict=True)):
        if size != expected:
            raise UserError(f"{printable(path / shard_name(number))} has {size:,} bytes, expected {expected:,}: pack the data anew")
    entries = np.frombuffer(index, ENTRY)
    _check(path, manifest, entries)
    return RawDataset(
        name=f"packed:{path}",
        classes=manifest.classes,
        channels=manifest.channels,
        images=PackedImages(path, manifest, entries),
        labels=entries["label"].astype(np.int64),
        content_hashes=[entry.tobytes()[:16] for entry in entries["sha256"]],
        splits={name: np.flatnonzero(entries["split"] == number) for number, name in enumerate(manifest.splits)},
        hflip_safe=manifest.mirrors,
        root=path,
    )


def _check(path: Path, manifest: StoreManifest, entries: NDArray[Any]) -> None:
    """What the index says must lie in the shards, whoever wrote it."""
    sizes = np.array(manifest.shards, np.uint64)
    fits = len(entries) == sum(manifest.counts) and bool(
        (entries["shard"] < len(sizes)).all()
        and (entries["label"] < len(manifest.classes)).all()
        and (entries["split"] < len(manifest.splits)).all()
        and (entries["offset"] <= sizes[entries["shard"]]).all()
        and (entries["length"] <= sizes[entries["shard"]] - entries["offset"]).all()
    )
    if fits and manifest.kind == "pixels":
        shape = [entries[side].astype(np.uint64) for side in ("height", "width", "channels")]
        fits = bool((shape[0] * shape[1] * shape[2] == entries["length"]).all() and (shape[0] * shape[1] > 0).all())
    if not fits:
        raise UserError(f"{printable(path / 'index.bin')} does not belong to these shards: pack the data anew")
