"""Masks that stay in their files until a batch needs them, and what is known of each without reading it
again."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from convatlas.data.images import decode
from convatlas.data.images.mask import Ids, MaskFile, is_interpolated
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.mask import Mask
from convatlas.data.sources.content_hash import content_hash
from convatlas.data.sources.mask_classes import MaskClasses
from convatlas.runtime.num_threads import usable_cores
from convatlas.runtime.progress import track
from convatlas.storage.cache import read_entry, write_entry
from convatlas.storage.records import Record

MAX_IDS = 4096  # different ids of a mask; one with more is a photograph
OBJECT = 1  # the class of every instance, where there are instances and no classes


class MaskSummary(Record, frozen=True, kw_only=True):
    """What a pass over an image's mask finds: the pixels of every id, and what prevents its use."""

    state: tuple[int, ...]  # sizes and modification times of the files, in nanoseconds
    hash: bytes = b""
    counts: dict[int, int] = {}
    has_colors: bool = False
    interpolated: bool = False  # whether ids occur that only an interpolation between others makes
    problem: str = ""


@dataclass(frozen=True)
class MaskFiles:
    """The masks of images: files relative to `root`, empty where there is none.

    Without a file of classes, every pixel of an instance is of class OBJECT.
    """

    root: Path
    names: Sequence[str]
    instance_names: Sequence[str]
    classes: MaskClasses
    pixel_counts: NDArray[np.int64]
    hashes: tuple[bytes, ...]

    @property
    def has_instances(self) -> bool:
        return any(self.instance_names)

    def mask(self, index: int) -> Mask:
        name, instance_name = self.names[index], self.instance_names[index]
        instances = None
        if instance_name:
            instances = MaskFile(self.root / instance_name).ids().astype(np.uint16)
        if not name:
            assert instances is not None
            return Mask((instances > 0).astype(np.uint8) * np.uint8(OBJECT), instances)
        file = MaskFile(self.root / name)
        try:
            classes = self.classes.indices(file.ids())
        except ValueError as error:
            raise UnreadableImage(file.name, str(error)) from None
        if instances is not None and instances.shape != classes.shape:
            raise UnreadableImage(file.name, f"{_size(classes)} pixels, its instances {_size(instances)}")
        return Mask(classes, instances)

    def subset(self, indices: NDArray[np.int64]) -> Self:
        return replace(
            self,
            names=[self.names[i] for i in indices],
            instance_names=[self.instance_names[i] for i in indices],
            pixel_counts=self.pixel_counts[indices],
            hashes=tuple(self.hashes[i] for i in indices),
        )


def summarize_masks(
    root: Path, images: Sequence[str], masks: Sequence[str], instances: Sequence[str]
) -> list[MaskSummary]:
    """Read every mask once, and compare its size with the image's. A mask whose files keep their sizes and
    modification times is not read again."""
    cache = read_entry("mask-summaries", str(root.resolve()), dict[bytes, MaskSummary]) or {}
    keys = [name.encode(errors="surrogateescape") for name in images]
    files = list(zip(images, masks, instances, strict=True))
    states = [_state(root, names) for names in files]
    missing = [i for i, key in enumerate(keys) if key not in cache or cache[key].state != states[i]]
    if missing:
        with ThreadPoolExecutor(usable_cores()) as pool:
            results = pool.map(lambda i: _summarize(root, *files[i], states[i]), missing)
            for index, summary in zip(
                missing, track(results, len(missing), "reading masks once"), strict=True
            ):
                cache[keys[index]] = summary
        write_entry("mask-summaries", str(root.resolve()), cache)
    return [cache[key] for key in keys]


def _state(root: Path, names: Sequence[str]) -> tuple[int, ...]:
    state: list[int] = []
    for name in names:
        try:
            status = (root / name).stat()
        except OSError:
            state += (0, 0)
            continue
        state += (status.st_size, status.st_mtime_ns)
    return tuple(state)


def _summarize(root: Path, image: str, mask: str, instances: str, state: tuple[int, ...]) -> MaskSummary:
    digest = b""
    counts: dict[int, int] = {}
    has_colors = interpolated = False
    try:
        sizes = {}
        for name in filter(None, (mask, instances)):
            file = MaskFile(root / name)
            ids = file.ids()
            digest += content_hash(file.data)
            sizes[name] = ids.shape
            if name == mask:
                counts = _count(ids, file.name)
                has_colors = file.has_colors
                interpolated = not has_colors and is_interpolated(ids)
            elif file.has_colors:
                raise UnreadableImage(file.name, "instances should be numbers, not colours")
            elif not mask:
                counts = {0: int((ids == 0).sum()), OBJECT: int((ids != 0).sum())}
        if not sizes:
            return MaskSummary(state=state, problem=f"{root / image} has no mask")
        _compare_sizes(root / image, {str(root / name): size for name, size in sizes.items()})
    except UnreadableImage as error:
        return MaskSummary(state=state, hash=digest, problem=str(error))
    return MaskSummary(
        state=state,
        hash=content_hash(digest),
        counts=counts,
        has_colors=has_colors,
        interpolated=interpolated,
    )


def _count(ids: Ids, name: str) -> dict[int, int]:
    values, counts = np.unique(ids, return_counts=True)
    if len(values) > MAX_IDS:
        raise UnreadableImage(name, f"{len(values):,} different ids, more than the limit of {MAX_IDS:,}")
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _compare_sizes(image: Path, mask_sizes: dict[str, tuple[int, ...]]) -> None:
    """Raises UnreadableImage for a mask of another size than the image's. An image that cannot be read is
    reported when it is."""
    try:
        file = decode.open_image(image)
    except UnreadableImage:
        return
    for name, size in mask_sizes.items():
        if size != (file.height, file.width):
            reason = f"{size[1]}x{size[0]} pixels, its image {file.width}x{file.height}"
            if file.transposed and size == (file.width, file.height):
                reason += " once it is turned as its EXIF orientation says"
            raise UnreadableImage(name, reason)


def _size(array: NDArray[np.generic]) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
