"""Write a packed store (`data pack`), one shard per task of a process pool.

Finished shards are kept when packing is interrupted and run again.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from convatlas.data.curation.worker_pool import map_in_processes
from convatlas.data.dataset import Dataset, ImageSource
from convatlas.data.images.decode import EncodedImage, ImageLike
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.images.resize import Box, crop_resize
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.sources.packed import ENTRY, FORMAT, StoreManifest, shard_name
from convatlas.data.sources.quarantine import NAME as QUARANTINE
from convatlas.data.transforms.preprocessing import UnreadableSample
from convatlas.data.transforms.value_range import dataset_value_range
from convatlas.errors import UsageError, UserError, printable
from convatlas.names import escape_name
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.num_threads import usable_cores
from convatlas.runtime.progress import track
from convatlas.storage.atomic import FILE_OPS, atomic_write
from convatlas.storage.lock import NAME as LOCK
from convatlas.storage.lock import folder_lock
from convatlas.storage.records import Record, encode_json, from_json, record_sha256, to_json
from convatlas.storage.regular_file import check_no_links, read_regular
from convatlas.storage.sealed_json import sealed_json

SHARD_SAMPLES = 500
_WORKERS_DIED = (
    "the workers that pack have died {deaths} times: free some memory or use --workers 1, and run data pack "
    "again: finished shards are kept"
)


class _PackSpec(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The content of a store. A folder with another specification is left alone."""

    source: str
    digest: str
    kind: str
    shorter: int | None
    value_range: ValueRange | None = None


class _ShardRecord(Record, frozen=True, kw_only=True):
    """A finished shard: its size in bytes, its part of the index, its unreadable samples."""

    spec: str
    size: int
    index: bytes
    names: tuple[str, ...]
    unreadable: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True)
class PackResult:
    """A packed store: its folder, number of samples and size in bytes, and the samples that were left out."""

    path: Path
    samples: int
    size: int
    unreadable: tuple[UnreadableSample, ...]


def pack(
    dataset: Dataset,
    path: Path,
    shorter: int | None = 256,
    files: bool = False,
    workers: int | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> PackResult:
    """Write the splits of `dataset`, one after another, to the folder `path`.

    The store holds uint8 pixels with the shorter side resized to `shorter` (smaller images, and with None all
    images, keep their size), or with `files` the image files themselves. Unreadable samples are left out and
    returned. The ranks share the shards.

    Raises UsageError if the folder holds anything else, or another process packs into it; UserError if no
    image can be read; OSError if writing fails.
    """
    if dataset.task == "segmentation":
        raise UsageError(
            f"{printable(dataset.name)} has masks, which a packed store does not hold: train on the folder "
            "itself"
        )
    if files and not isinstance(dataset.splits["train"].images.image(0), EncodedImage):
        raise UsageError(
            f"{dataset.name} has no image files to pack: leave out --files, and its pixels are packed"
        )
    with ExitStack() as stack:
        ranks.run_on_main(lambda: stack.enter_context(_lock(path)))
        return _pack(dataset, path, shorter, files, workers, ranks)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.mkdir(parents=True, exist_ok=True)
    check_no_links(path)
    with folder_lock(path):
        yield


def _pack(
    dataset: Dataset, path: Path, shorter: int | None, files: bool, workers: int | None, ranks: Ranks
) -> PackResult:
    spec = _PackSpec(
        source=dataset.name,
        digest=dataset.sha256,
        kind="files" if files else "pixels",
        shorter=None if files else shorter,
        value_range=dataset_value_range(dataset),
    )
    if ranks.run_on_main(lambda: _prepare_folder(path, spec)):
        manifest_file = path / "manifest.json"
        manifest = from_json(read_regular(manifest_file), StoreManifest, str(manifest_file))
        return PackResult(path, sum(manifest.counts), sum(manifest.shards), ())
    writer = _ShardWriter(dataset, path, spec, np.cumsum([0, *map(len, dataset.splits.values())]))
    all_missing = ranks.run_on_main(writer.missing_shards)
    missing = all_missing[ranks.rank :: ranks.world_size]
    cores = max(1, usable_cores() // ranks.local_world_size)
    num_processes = min(cores if workers is None else workers, len(missing))
    description = f"packing shards of {SHARD_SAMPLES} images"
    shards = map_in_processes(writer.write, missing, num_processes, _WORKERS_DIED)
    for _ in track(shards, len(missing), description):
        pass
    ranks.all_gather(None)  # all shards are written
    return ranks.run_on_main(writer.finish)


def _prepare_folder(path: Path, spec: _PackSpec) -> bool:
    """Create a store's folder, or accept one of an interrupted run. Returns whether the store is complete."""
    for temporary in path.glob(".*.tmp"):  # left by a process that was killed while it wrote
        temporary.unlink(missing_ok=True)
    spec_file = path / "plan.json"
    if spec_file.exists():
        if from_json(read_regular(spec_file), _PackSpec, str(spec_file)) != spec:
            raise UsageError(
                f"{printable(path)} holds another packed store, or one of data that has since changed: "
                f"choose another folder with --out"
            )
    elif any(entry.name not in (QUARANTINE, LOCK) for entry in path.iterdir()):
        raise UsageError(f"{printable(path)} is not empty: choose another folder with --out")
    else:
        atomic_write(spec_file, to_json(spec, indent=2))
    return (path / "manifest.json").exists()


@dataclass(frozen=True)
class _ShardWriter:
    dataset: Dataset
    path: Path
    spec: _PackSpec
    split_offsets: NDArray[
        np.int64
    ]  # (splits + 1,): the first sample of each split in the store, and the end

    @property
    def num_shards(self) -> int:
        return -(-int(self.split_offsets[-1]) // SHARD_SAMPLES)

    def missing_shards(self) -> list[int]:
        return [number for number in range(self.num_shards) if self.read_record(number) is None]

    def write(self, number: int) -> int:
        """Write a shard, then the record that says that it is complete. Returns its number."""
        file = self.path / shard_name(number)
        temporary = self.path / f".{file.name}.{os.getpid()}.tmp"
        splits = list(self.dataset.splits.values())
        end = min((number + 1) * SHARD_SAMPLES, int(self.split_offsets[-1]))
        entries = []
        names = []
        unreadable = []
        offset = 0
        stream = FILE_OPS.open_new(temporary)
        try:
            for position in range(number * SHARD_SAMPLES, end):
                split_number = int(np.searchsorted(self.split_offsets, position, "right")) - 1
                split = splits[split_number]
                index = position - int(self.split_offsets[split_number])
                try:
                    data, (height, width, channels) = self._encode(split.images, index)
                except UnreadableImage as error:
                    unreadable.append((position, error.name, error.reason))
                    continue
                FILE_OPS.write(stream, data)
                sha256 = np.void(hashlib.sha256(data).digest())
                label = split.labels[index]
                entries.append(
                    (number, split_number, offset, len(data), height, width, label, channels, sha256)
                )
                names.append(escape_name(split.images.name(index)))
                offset += len(data)
            FILE_OPS.fsync(stream)
        except BaseException:
            FILE_OPS.remove(temporary)
            raise
        finally:
            FILE_OPS.close(stream)
        FILE_OPS.rename(temporary, file)
        record = _ShardRecord(
            spec=record_sha256(self.spec),
            size=offset,
            index=np.array(entries, ENTRY).tobytes(),
            names=tuple(names),
            unreadable=tuple(unreadable),
        )
        encoded = encode_json(record)
        atomic_write(
            self._record_file(number), hashlib.sha256(encoded).hexdigest().encode() + b"\n" + encoded
        )
        return number

    def read_record(self, number: int) -> _ShardRecord | None:
        """The record of a complete shard, else None: missing, damaged or of another version."""
        try:
            digest, _, encoded = read_regular(self._record_file(number)).partition(b"\n")
            if hashlib.sha256(encoded).hexdigest().encode() != digest:
                return None
            record = msgspec.json.decode(encoded, type=_ShardRecord)
            size = (self.path / shard_name(number)).stat().st_size
        except (OSError, msgspec.DecodeError):
            return None
        return record if record.spec == record_sha256(self.spec) and record.size == size else None

    def _record_file(self, number: int) -> Path:
        return self.path / f".{number:05d}.json"

    def finish(self) -> PackResult:
        """Write index, names and manifest. Raises UserError for missing shards or an empty store."""
        records = [
            record for number in range(self.num_shards) if (record := self.read_record(number)) is not None
        ]
        if len(records) < self.num_shards:
            raise UserError(
                f"{printable(self.path)} lacks shards that were written a moment ago: "
                f"is another process writing there?"
            )
        index = b"".join(record.index for record in records)
        names = b"".join(msgspec.json.encode(name) + b"\n" for record in records for name in record.names)
        entries = np.frombuffer(index, ENTRY)
        if not len(entries):
            total = self.split_offsets[-1]
            raise UserError(
                f"none of the {total:,} images of {self.dataset.name} can be read: try data check"
            )
        manifest = StoreManifest(
            format=FORMAT,
            kind="files" if self.spec.kind == "files" else "pixels",
            source=self.dataset.name,
            classes=self.dataset.classes,
            channels=self.dataset.channels,
            splits=tuple(self.dataset.splits),
            counts=tuple(np.bincount(entries["split"], minlength=len(self.dataset.splits)).tolist()),
            shards=tuple(record.size for record in records),
            shorter=self.spec.shorter,
            mirrors=self.dataset.hflip_safe,
            index_sha256=hashlib.sha256(index).hexdigest(),
            names_sha256=hashlib.sha256(names).hexdigest(),
            value_range=self.spec.value_range if self.spec.kind == "pixels" else None,
        )
        atomic_write(self.path / "index.bin", index)
        atomic_write(self.path / "names.jsonl", names)
        atomic_write(self.path / "manifest.json", sealed_json(msgspec.to_builtins(manifest)))
        unreadable = [UnreadableSample(*sample) for record in records for sample in record.unreadable]
        for number in range(self.num_shards):  # the index now holds their content
            FILE_OPS.remove(self._record_file(number))
        return PackResult(self.path, len(entries), sum(manifest.shards), tuple(unreadable))

    def _encode(self, images: ImageSource, index: int) -> tuple[bytes, tuple[int, int, int]]:
        """The bytes of a sample, and (height, width, channels); channels is 0 for an image file."""
        image = images.image(index)
        if self.spec.kind == "files":
            assert isinstance(image, EncodedImage)
            # decoded to find damage: such a file would be of no use in the store
            image.decode(self.dataset.channels, (image.height, image.width), self.spec.value_range)
            return image.data, (image.height, image.width, 0)
        return _resized_pixels(image, self.spec, self.dataset.channels)


def _resized_pixels(image: ImageLike, spec: _PackSpec, channels: int) -> tuple[bytes, tuple[int, int, int]]:
    shorter = spec.shorter
    scale = 1.0 if shorter is None else min(1.0, shorter / min(image.height, image.width))
    size = max(1, round(image.height * scale)), max(1, round(image.width * scale))
    full_box = Box(0, 0, image.height, image.width)
    pixels = crop_resize(image, full_box, size, channels, spec.value_range).permute(1, 2, 0)
    return pixels.contiguous().numpy().tobytes(), (*size, channels)
