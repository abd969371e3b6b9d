"""`data pack`: write a packed store, a shard a process. A shard that is whole stays when packing is interrupted and run again."""

import hashlib
import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from convatlas.data.dataset import Dataset, ImageSource
from convatlas.data.images.decode import EncodedImage, ImageLike, UnreadableImage
from convatlas.data.images.resize import Box, crop_resize
from convatlas.data.sources.packed import ENTRY, FORMAT, StoreManifest, shard_name
from convatlas.data.sources.quarantine import NAME as QUARANTINE
from convatlas.data.transforms.preprocessing import UnreadableSample
from convatlas.errors import UsageError, UserError, printable
from convatlas.runtime.device import usable_cores
from convatlas.runtime.progress import track
from convatlas.storage.atomic import FILE_OPS, atomic_write
from convatlas.storage.records import Record, from_json, record_sha256, to_json

SHARD = 500  # samples


class _PackSpec(Record, frozen=True, kw_only=True):
    """What is being packed; a folder with another plan is left alone."""

    source: str
    digest: str
    kind: str
    shorter: int | None


class _ShardRecord(Record, frozen=True, kw_only=True):
    """A finished shard: its bytes, its part of the index, what could not be read."""

    spec: str
    size: int
    index: bytes
    names: tuple[str, ...]
    unreadable: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True)
class PackResult:
    path: Path
    samples: int
    size: int  # bytes
    unreadable: tuple[UnreadableSample, ...]


def pack(dataset: Dataset, path: Path, shorter: int | None = 256, files: bool = False, workers: int | None = None) -> PackResult:
    """Write `dataset`, its splits in turn, to the folder `path`: uint8 pixels with the shorter side at `shorter` (smaller images and
    None: as they are), or the image files themselves. What cannot be read is left out and returned.

    Raises UsageError when the folder holds something else, UserError when nothing can be read, OSError when the disk refuses.
    """
    if files and not isinstance(dataset.splits["train"].images.image(0), EncodedImage):
        raise UsageError(f"{dataset.name} has no image files to pack: leave out --files, and its pixels are packed")
    plan = _PackSpec(source=dataset.name, digest=dataset.sha256, kind="files" if files else "pixels", shorter=None if files else shorter)
    if _begin(path, plan):
        done = from_json((path / "manifest.json").read_bytes(), StoreManifest, str(path / "manifest.json"))
        return PackResult(path, sum(done.counts), sum(done.shards), ())
    job = _ShardWriter(dataset, path, plan, np.cumsum([0, *map(len, dataset.splits.values())]))
    missing = [number for number in range(job.shards) if job.record(number) is None]
    count = min(usable_cores() if workers is None else workers, len(missing))
    if count > 1:
        with multiprocessing.get_context("fork").Pool(count, initializer=_leave_interrupts_to_the_parent) as pool:
            for _ in track(pool.imap_unordered(job.write, missing), len(missing), f"packing shards of {SHARD} images"):
                pass
    else:
        for number in track(missing, len(missing), f"packing shards of {SHARD} images"):
            job.write(number)
    return job.finish()


def _begin(path: Path, plan: _PackSpec) -> bool:
    """Whether this was packed, whole, before."""
    path.mkdir(parents=True, exist_ok=True)
    for litter in path.glob(".*.tmp"):  # of a process that was killed while it wrote
        litter.unlink(missing_ok=True)
    file = path / "plan.json"
    if file.exists():
        if from_json(file.read_bytes(), _PackSpec, str(file)) != plan:
            raise UsageError(f"{printable(path)} holds another packing, or one of data that has changed since: give another --out")
    elif any(entry.name != QUARANTINE for entry in path.iterdir()):
        raise UsageError(f"{printable(path)} is not empty: give another folder with --out")
    else:
        atomic_write(file, to_json(plan, indent=2))
    return (path / "manifest.json").exists()


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class _ShardWriter:
    dataset: Dataset
    path: Path
    spec: _PackSpec
    ends: NDArray[np.int64]  # where each split begins and ends in the store

    @property
    def shards(self) -> int:
        return -(-int(self.ends[-1]) // SHARD)

    def write(self, number: int) -> int:
        """One shard, then the record that says it is whole."""
        file = self.path / shard_name(number)
        temporary = self.path / f".{file.name}.{os.getpid()}.tmp"
        entries, names, unread, offset = [], [], [], 0
        stream = FILE_OPS.open_new(temporary)
        try:
            for place in range(number * SHARD, min((number + 1) * SHARD, int(self.ends[-1]))):
                part = int(np.searchsorted(self.ends, place, "right")) - 1
                split, index = list(self.dataset.splits.values())[part], place - int(self.ends[part])
                try:
                    data, shape = _bytes(split.images, index, self.dataset.channels, self.spec)
                except UnreadableImage as error:
                    unread.append((place, error.name, error.reason))
                    continue
                FILE_OPS.write(stream, data)
                digest = np.void(hashlib.sha256(data).digest())
                entries.append((number, part, offset, len(data), shape[0], shape[1], split.labels[index], shape[2], digest))
                names.append(split.images.name(index))
                offset += len(data)
            FILE_OPS.fsync(stream)
        except BaseException:
            FILE_OPS.remove(temporary)
            raise
        finally:
            FILE_OPS.close(stream)
        FILE_OPS.rename(temporary, file)
        index_bytes = np.array(entries, ENTRY).tobytes()
        piece = _ShardRecord(spec=record_sha256(self.spec), size=offset, index=index_bytes, names=tuple(names), unreadable=tuple(unread))
        atomic_write(self._record(number), msgspec.json.encode(piece))
        return number

    def record(self, number: int) -> _ShardRecord | None:
        """The record of a shard that is whole."""
        try:
            piece = msgspec.json.decode(self._record(number).read_bytes(), type=_ShardRecord)
            whole = piece.spec == record_sha256(self.spec) and (self.path / shard_name(number)).stat().st_size == piece.size
        except (OSError, msgspec.DecodeError):
            return None
        return piece if whole else None

    def _record(self, number: int) -> Path:
        return self.path / f".{number:05d}.json"

    def finish(self) -> PackResult:
        pieces = [piece for number in range(self.shards) if (piece := self.record(number)) is not None]
        if len(pieces) < self.shards:
            raise UserError(f"{printable(self.path)} lacks shards that were written a moment ago: is another process writing there?")
        index = b"".join(piece.index for piece in pieces)
        names = b"".join(msgspec.json.encode(name) + b"\n" for piece in pieces for name in piece.names)
        entries = np.frombuffer(index, ENTRY)
        if not len(entries):
            raise UserError(f"none of the {self.ends[-1]:,} images of {self.dataset.name} can be read: try data check")
        manifest = StoreManifest(
            format=FORMAT,
            kind="files" if self.spec.kind == "files" else "pixels",
            source=self.dataset.name,
            classes=self.dataset.classes,
            channels=self.dataset.channels,
            splits=tuple(self.dataset.splits),
            counts=tuple(np.bincount(entries["split"], minlength=len(self.dataset.splits)).tolist()),
            shards=tuple(piece.size for piece in pieces),
            shorter=self.spec.shorter,
            mirrors=self.dataset.hflip_safe,
            index_sha256=hashlib.sha256(index).hexdigest(),
            names_sha256=hashlib.sha256(names).hexdigest(),
        )
        atomic_write(self.path / "index.bin", index)
        atomic_write(self.path / "names.jsonl", names)
        atomic_write(self.path / "manifest.json", to_json(manifest, indent=2))
        unread = [UnreadableSample(*found) for piece in pieces for found in piece.unreadable]
        for number in range(self.shards):  # the index holds what they said
            FILE_OPS.remove(self._record(number))
        return PackResult(self.path, len(entries), sum(manifest.shards), tuple(unread))


def _bytes(images: ImageSource, index: int, channels: int, plan: _PackSpec) -> tuple[bytes, tuple[int, int, int]]:
    picture = images.image(index)
    if plan.kind == "files":
        assert isinstance(picture, EncodedImage)
        picture.decode(channels, (picture.height, picture.width))  # a file that cannot be decoded is of no use in the store either
        return picture.data, (picture.height, picture.width, 0)
    return _pixels(picture, plan.shorter, channels)


def _pixels(picture: ImageLike, shorter: int | None, channels: int) -> tuple[bytes, tuple[int, int, int]]:
    least = min(picture.height, picture.width)
    scale = 1.0 if shorter is None else min(1.0, shorter / least)
    size = max(1, round(picture.height * scale)), max(1, round(picture.width * scale))
    pixels = crop_resize(picture, Box(0, 0, picture.height, picture.width), size, channels).permute(1, 2, 0)
    return pixels.contiguous().numpy().tobytes(), (*size, channels)
