"""`bench data`: how fast photographs become batches, beside what a user would run otherwise. Each row runs in
a process of its own.

All rows do the same work on the same JPEGs of 500x375: a random resized crop of 224, a random horizontal
flip, float32, normalised, in batches of 32. `baseline` is torchvision's ImageFolder with transforms v2 as its
documentation shows them; where torchvision is not installed, the same steps by Pillow. A row's name ends with
its number of loader processes; without a number it loads in its own process.
"""

import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from convatlas.benchmark.harness import run_in_subprocess, run_interleaved
from convatlas.benchmark.peers import import_peer, is_installed
from convatlas.data import open_dataset
from convatlas.data.curation.pack import pack
from convatlas.data.loading.labeled_samples import LabeledSamples
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import center_crop_preprocessing
from convatlas.data.transforms.random_crop import RandomResizedCrop
from convatlas.errors import UserError, unknown_name
from convatlas.runtime.device import best_precision, select_device
from convatlas.runtime.memory import peak_memory_bytes, tune_malloc
from convatlas.runtime.num_threads import usable_cores
from convatlas.runtime.runtime import Runtime

PHOTO_WIDTH, PHOTO_HEIGHT = 500, 375
JPEG_QUALITY = 92
NUM_PHOTOS = 480
INPUT_SIZE = 224
BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SECONDS = 4.0  # that a row is measured
PHOTO_NAMES = ("astronaut", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry")  # scikit-image's

RowFunction = Callable[[Path, int], Iterator[int]]  # (folder, loader processes) -> images of each step


def _row_names() -> list[str]:
    cores = usable_cores()
    loaders = ["baseline", "baseline-tuned", "files", "packed files", "packed pixels"]
    parallel_loaders = [f"{name}-{cores}" for name in ("files", "packed files", "packed pixels")]
    if is_installed("torchvision") and is_installed("timm"):
        parallel_loaders.insert(0, f"timm-{cores}")
    single_steps = ["pillow decodes", "libjpeg decodes", "crops of pixels"]
    return [*loaders, f"baseline-{cores}", *parallel_loaders, *single_steps]


def benchmark_data(rounds: int | None, say: Callable[[str], None]) -> dict[str, Any]:
    """The document of `bench data`. `ratio_same` is the ratio to torchvision's row with as many loader
    processes."""
    with tempfile.TemporaryDirectory() as scratch:
        say(f"making {NUM_PHOTOS} JPEGs of {PHOTO_WIDTH}x{PHOTO_HEIGHT}, and packing them")
        photos = Path(scratch, "photos")
        total_bytes = write_photographs(photos)
        dataset = open_dataset(f"folder:{photos}")
        pack(dataset, Path(scratch, "files"), files=True)
        pack(dataset, Path(scratch, "pixels"), shorter=256)

        def measure(row: str) -> dict[str, float]:
            return run_in_subprocess(f"the row {row}", "bench", "data", "--row", row, "--photos", scratch)

        rows = run_interleaved(_row_names(), rounds, measure, say)
    speeds = {row["name"]: row["images_per_second"] for row in rows}
    for row in rows:
        _, workers = _split_name(row["name"])
        speed, same = row["images_per_second"], speeds[f"baseline-{workers}" if workers else "baseline"]
        row["ratio_same"] = speed / same if speed and same else None
    cpu = select_device("cpu")
    return {
        "kind": "data",
        "model": None,
        "images": NUM_PHOTOS,
        "bytes_per_image": total_bytes // NUM_PHOTOS,
        "baseline": "torchvision" if is_installed("torchvision") else "Pillow",
        "rounds": max(row["rounds"] for row in rows),
        "machine": Runtime(cpu, best_precision(cpu)).describe(),
        "rows": rows,
    }


def _split_name(row: str) -> tuple[str, int]:
    """The kind of a row, and its number of loader processes (0: it loads in its own process)."""
    kind, _, last = row.rpartition("-")
    return (kind, int(last)) if last.isdigit() else (row, 0)


def measure_row(row: str, scratch: Path) -> dict[str, float]:
    """Images per second and peak memory of one row, in this process."""
    if row not in _row_names():
        raise unknown_name("row", row, _row_names())
    if row == "baseline-tuned" or not row.startswith(("baseline", "timm")):
        tune_malloc()
    kind, workers = _split_name(row)
    if workers:
        torch.set_num_threads(1)  # the work left to this process must not take cores from the workers
    steps = _ROWS[kind.removesuffix("-tuned")](scratch, workers)
    start = time.perf_counter()
    num_images = 0
    # warm-up: every image once, so that caches are warm and processes started
    while num_images < NUM_PHOTOS or time.perf_counter() - start < 1:
        num_images += next(steps)
    start = time.perf_counter()
    num_images = 0
    while (elapsed := time.perf_counter() - start) < SECONDS:
        num_images += next(steps)
    return {"images_per_second": num_images / elapsed, "memory_bytes": peak_memory_bytes()}


def _convatlas_loader(source: str) -> RowFunction:
    """The loader of `train` over a data source; `{}` in its name is the folder."""

    def steps(scratch: Path, workers: int) -> Iterator[int]:
        splits = open_dataset(source.format(scratch)).splits
        split = max(splits.values(), key=len)
        preprocessing = center_crop_preprocessing(3, (INPUT_SIZE, INPUT_SIZE))
        batches = TrainBatches(LabeledSamples(split, preprocessing, RandomResizedCrop()), (), BATCH, 0)
        normalizer = Normalizer(*(torch.tensor(values)[:, None, None] for values in (MEAN, STD)))
        for step, batch in iterate_batches(batches, 0, sys.maxsize, workers):
            yield len(normalizer(batches.augmented(batch.images, batch.indices, step)))

    return steps


def _torchvision_loader(scratch: Path, workers: int) -> Iterator[int]:
    if not is_installed("torchvision"):
        yield from _iterate_data_loader(_PillowImages(scratch / "photos"), workers)
    torchvision = import_peer("torchvision.datasets")
    v2 = import_peer("torchvision.transforms.v2")
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size=(INPUT_SIZE, INPUT_SIZE), antialias=True),
            v2.RandomHorizontalFlip(p=0.5),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=list(MEAN), std=list(STD)),
        ]
    )
    yield from _iterate_data_loader(torchvision.ImageFolder(scratch / "photos", transform=transform), workers)


def _iterate_data_loader(dataset: Any, workers: int) -> Iterator[int]:
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        for images, _ in loader:
            yield len(images)


class _PillowImages(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """The steps of the baseline by Pillow. All labels are 0."""

    def __init__(self, folder: Path):
        self.files = sorted(folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        size = (INPUT_SIZE, INPUT_SIZE)
        image = Image.open(self.files[index]).convert("RGB")
        crop = RandomResizedCrop()
        uniforms = np.random.rand(crop.num_uniforms)
        box = crop.sample_box(image, size, uniforms)
        image = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
        image = image.resize(size, Image.Resampling.BILINEAR)
        if np.random.rand() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None], 0


def _timm_loader(scratch: Path, workers: int) -> Iterator[int]:
    import_peer("torchvision")
    timm_data = import_peer("timm.data")
    loader = timm_data.create_loader(
        timm_data.create_dataset("", str(scratch / "photos")),
        (3, INPUT_SIZE, INPUT_SIZE),
        BATCH,
        is_training=True,
        num_workers=workers,
        use_prefetcher=False,
        color_jitter=0.0,
        device="cpu",
    )
    while True:
        for images, _ in loader:
            yield len(images)


def _decode_only(decode: Callable[[bytes], object]) -> RowFunction:
    def steps(scratch: Path, workers: int) -> Iterator[int]:
        jpegs = [file.read_bytes() for file in sorted((scratch / "photos").rglob("*.jpg"))]
        while True:
            for jpeg in jpegs:
                decode(jpeg)
                yield 1

    return steps


def _decode_by_pillow(jpeg: bytes) -> object:
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def _decode_by_libjpeg(jpeg: bytes) -> object:
    import simplejpeg

    return simplejpeg.decode_jpeg(jpeg)


def _resize_only(scratch: Path, workers: int) -> Iterator[int]:
    image = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    while True:
        torch.nn.functional.interpolate(image, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True)
        yield 1


_ROWS: dict[str, RowFunction] = {
    "baseline": _torchvision_loader,
    "timm": _timm_loader,
    "files": _convatlas_loader("folder:{}/photos"),
    "packed files": _convatlas_loader("packed:{}/files"),
    "packed pixels": _convatlas_loader("packed:{}/pixels"),
    "pillow decodes": _decode_only(_decode_by_pillow),
    "libjpeg decodes": _decode_only(_decode_by_libjpeg),
    "crops of pixels": _resize_only,
}


def write_photographs(folder: Path) -> int:
    """Write the photographs: crops of scikit-image's, in their own resolution. Returns their total bytes."""
    try:
        from skimage import data
    except ImportError:
        raise UserError(
            "bench data crops its photographs from scikit-image's: pip install 'convatlas[sets]'"
        ) from None
    photos = [Image.fromarray(getattr(data, name)()) for name in PHOTO_NAMES]
    rng = np.random.default_rng(0)
    total_bytes = 0
    for number in range(NUM_PHOTOS):
        photo = photos[number % len(photos)]
        left = int(rng.integers(photo.width - PHOTO_WIDTH + 1))
        top = int(rng.integers(photo.height - PHOTO_HEIGHT + 1))
        file = folder / f"class{number % 2}" / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        crop = photo.crop((left, top, left + PHOTO_WIDTH, top + PHOTO_HEIGHT))
        crop.save(file, quality=JPEG_QUALITY)
        total_bytes += file.stat().st_size
    return total_bytes
