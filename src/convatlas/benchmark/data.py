"""`bench data`: how fast photographs become batches, beside what a user would run otherwise. Each row runs in a process of its own.

Every row makes the same thing of the same JPEGs of 500x375: a random resized crop of 224, flipped or not, float32, standardised, in
batches of 32. `baseline` is torchvision's ImageFolder with transforms v2 as its documentation has them; where torchvision is not
installed, the same steps by Pillow. A row's name ends with its number of loader processes; without one it loads in its own process.
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
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import center_crop_preprocessing
from convatlas.data.transforms.random_crop import RandomResizedCrop
from convatlas.errors import UserError, unknown_name
from convatlas.runtime.device import best_precision, select_device, usable_cores
from convatlas.runtime.memory import peak_memory_bytes, tune_malloc
from convatlas.runtime.runtime import Runtime

WIDTH, HEIGHT, SIZE, BATCH, IMAGES, QUALITY = 500, 375, 224, 32, 480, 92
SECONDS = 4.0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _names() -> list[str]:
    many = usable_cores()
    rows = ["baseline", "baseline-tuned", "files", "packed files", "packed pixels", f"baseline-{many}", f"files-{many}"]
    rows += [f"packed files-{many}", f"packed pixels-{many}", "pillow decodes", "libjpeg decodes", "crops of pixels"]
    return rows if not (is_installed("torchvision") and is_installed("timm")) else [*rows[:6], f"timm-{many}", *rows[6:]]


def benchmark_data(rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The document of `bench data`. `ratio_same` is to torchvision's row with as many loader processes."""
    names = _names()
    with tempfile.TemporaryDirectory() as scratch:
        say(f"making {IMAGES} JPEGs of {WIDTH}x{HEIGHT}, and packing them")
        photos = Path(scratch, "photos")
        size = write_photographs(photos)
        dataset = open_dataset(f"folder:{photos}")
        pack(dataset, Path(scratch, "files"), files=True)
        pack(dataset, Path(scratch, "pixels"), shorter=256)
        rows = run_interleaved(
            names,
            rounds,
            lambda row: run_in_subprocess(f"the row {row}", "bench", "data", "--row", row, "--photos", scratch),
            say,
        )
    speeds = {row["name"]: row["images_per_second"] for row in rows}
    for row in rows:
        same = f"baseline-{row['name'].rpartition('-')[2]}" if row["name"][-1].isdigit() else "baseline"
        row["ratio_same"] = row["images_per_second"] / speeds[same]
    return {
        "kind": "data",
        "model": None,
        "images": IMAGES,
        "bytes_per_image": size // IMAGES,
        "baseline": "torchvision" if is_installed("torchvision") else "Pillow",
        "rounds": rounds,
        "machine": Runtime(select_device("cpu"), best_precision(select_device("cpu"))).describe(),
        "rows": rows,
    }


def measure_row(row: str, scratch: Path) -> dict[str, float]:
    """Images a second and peak memory of one row, in this process."""
    if row not in _names():
        raise unknown_name("row", row, _names())
    if row != "baseline" and not row.startswith(("baseline-2", "timm")):
        tune_malloc()
    kind, _, last = row.rpartition("-")
    workers = int(last) if last.isdigit() else 0
    kind = (kind if last.isdigit() else row).removesuffix("-tuned")
    if workers:
        torch.set_num_threads(1)  # what is left to do here must not take the cores from them
    steps = _ROWS[kind](scratch, workers)
    began, seen = time.perf_counter(), 0
    while seen < IMAGES or time.perf_counter() - began < 1:  # every image once: caches are warm, processes started
        seen += next(steps)
    began, seen = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < SECONDS:
        seen += next(steps)
    return {"images_per_second": seen / elapsed, "memory_bytes": peak_memory_bytes()}


def _ours(source: str) -> Callable[[Path, int], Iterator[int]]:
    def steps(scratch: Path, workers: int) -> Iterator[int]:
        dataset = open_dataset(source.format(scratch))
        parts = list(dataset.splits.values())
        split = max(parts, key=len)
        data = TrainBatches(split, center_crop_preprocessing(3, (SIZE, SIZE)), (), BATCH, 0, RandomResizedCrop())
        standardise = Normalizer(*(torch.tensor(values)[:, None, None] for values in (MEAN, STD)))
        for step, batch in iterate_batches(data, 0, sys.maxsize, workers):
            yield len(standardise(data.augmented(batch.images, batch.indices, step)))

    return steps


def _torchvision(scratch: Path, workers: int) -> Iterator[int]:
    if not is_installed("torchvision"):
        yield from _loader(_ByPillow(scratch / "photos"), workers)
    torchvision = import_peer("torchvision.datasets")
    v2 = import_peer("torchvision.transforms.v2")
    steps = v2.Compose(
        [
            v2.RandomResizedCrop(size=(SIZE, SIZE), antialias=True),
            v2.RandomHorizontalFlip(p=0.5),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=list(MEAN), std=list(STD)),
        ]
    )
    yield from _loader(torchvision.ImageFolder(scratch / "photos", transform=steps), workers)


def _loader(dataset: Any, workers: int) -> Iterator[int]:
    loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)
    while True:
        for images, _ in loader:
            yield len(images)


class _ByPillow(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, folder: Path):
        self.files = sorted(folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.open(self.files[index]).convert("RGB")
        box = RandomResizedCrop().box(_Size(image.height, image.width), (SIZE, SIZE), np.random.rand(RandomResizedCrop.uniforms))
        part = image.crop((box.left, box.top, box.left + box.width, box.top + box.height)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        if np.random.rand() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(part)).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None], 0


def _timm(scratch: Path, workers: int) -> Iterator[int]:
    import_peer("torchvision")
    data = import_peer("timm.data")
    dataset = data.create_dataset("", str(scratch / "photos"))
    loader = data.create_loader(
        dataset, (3, SIZE, SIZE), BATCH, is_training=True, num_workers=workers, use_prefetcher=False, color_jitter=0.0, device="cpu"
    )
    while True:
        for images, _ in loader:
            yield len(images)


def _decoding(decode: Callable[[bytes], object]) -> Callable[[Path, int], Iterator[int]]:
    def steps(scratch: Path, workers: int) -> Iterator[int]:
        files = [file.read_bytes() for file in sorted((scratch / "photos").rglob("*.jpg"))]
        while True:
            for data in files:
                decode(data)
                yield 1

    return steps


def _pillow(data: bytes) -> object:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _libjpeg(data: bytes) -> object:
    import simplejpeg

    return simplejpeg.decode_jpeg(data)


def _crops_of_pixels(scratch: Path, workers: int) -> Iterator[int]:
    image = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    while True:
        torch.nn.functional.interpolate(image, (SIZE, SIZE), mode="bilinear", antialias=True)
        yield 1


_ROWS: dict[str, Callable[[Path, int], Iterator[int]]] = {
    "baseline": _torchvision,
    "timm": _timm,
    "files": _ours("folder:{}/photos"),
    "packed files": _ours("packed:{}/files"),
    "packed pixels": _ours("packed:{}/pixels"),
    "pillow decodes": _decoding(_pillow),
    "libjpeg decodes": _decoding(_libjpeg),
    "crops of pixels": _crops_of_pixels,
}


def write_photographs(folder: Path) -> int:
    """The photographs: parts of scikit-image's, at their own sharpness. Returns their bytes in all."""
    try:
        from skimage import data
    except ImportError:
        raise UserError("bench data cuts its photographs from scikit-image's: pip install 'convatlas[sets]'") from None
    photos = [
        Image.fromarray(getattr(data, name)()) for name in ("astronaut", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry")
    ]
    rng, total = np.random.default_rng(0), 0
    for number in range(IMAGES):
        photo = photos[number % len(photos)]
        left, top = int(rng.integers(photo.width - WIDTH + 1)), int(rng.integers(photo.height - HEIGHT + 1))
        file = folder / f"class{number % 2}" / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((left, top, left + WIDTH, top + HEIGHT)).save(file, quality=QUALITY)
        total += file.stat().st_size
    return total


class _Size:
    """A picture of which only the size is asked."""

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width

    def decode(self, channels: int, min_size: tuple[int, int]) -> Any:
        raise NotImplementedError
