"""Write docs/generated/data_speed.md: `convatlas bench data`, and the memory that packing and loading take
(make bench-data)."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convatlas.benchmark import data

PAGE = Path(__file__).parent / "generated" / "data_speed.md"
DATASET_SIZES = (1_000, 20_000)
NUM_FILES = 100  # different image files
JOBS = ("pack --files", "pack --side 96", "load files", "load files, 2 processes", "load packed pixels")


def main() -> None:
    command = [sys.executable, "-m", "convatlas", "bench", "data", "--json", *sys.argv[1:]]
    document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    PAGE.write_text("\n".join([*speed_section(document), *memory_section()]) + "\n")


def speed_section(document: dict[str, Any]) -> list[str]:
    speeds = {row["name"]: row["images_per_second"] for row in document["rows"]}
    lines = [
        "# How fast photographs are loaded",
        "",
        f"Made by `make bench-data`; do not edit. {' '.join((data.__doc__ or '').split())}",
        "",
        f"{document['machine']}; {document['images']} JPEGs of 500x375, "
        f"{document['bytes_per_image'] / 1e3:.0f} kB each; medians of {document['rounds']} rounds. "
        f"Baseline: {document['baseline']}.",
        "",
        "| row | images/s | to baseline | to it with our allocator settings | to torchvision, same processes "
        "| peak MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in document["rows"]:
        cells = (
            row["name"],
            f"{row['images_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_tuned']:.2f}",
            f"{row['ratio_same']:.2f}",
            f"{row['memory_bytes'] / 1e6:,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    decode_share = 100 * speeds["files"] / speeds["libjpeg decodes"]
    resize_share = 100 * speeds["packed pixels"] / speeds["crops of pixels"]
    return [
        *lines,
        "",
        f"From JPEG files, one process delivers {decode_share:.0f} % of the images that one thread of "
        "libjpeg-turbo decodes: the process decodes in as many threads as torch computes in. From packed "
        f"pixels it delivers {resize_share:.0f} % of the images that one thread resizes.",
    ]


def memory_section() -> list[str]:
    lines = [
        "",
        "## Memory",
        "",
        "Peak memory of one pass over images of 160x120, in MB, of the largest process. Mapped pages of a "
        "packed store are left out, because the system takes them back when it needs them. PyTorch alone "
        "takes about 150.",
        "",
        "| | " + " | ".join(f"{size:,} images" for size in DATASET_SIZES) + " |",
        "|---|" + "---:|" * len(DATASET_SIZES),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for size in DATASET_SIZES:
            _write_photographs(Path(scratch, f"photos{size}"), size)
        for job in JOBS:
            peaks = [_peak_bytes_in_subprocess(job, Path(scratch), size) for size in DATASET_SIZES]
            lines.append(f"| {job} | " + " | ".join(f"{peak / 1e6:.0f}" for peak in peaks) + " |")
    return lines


def _write_photographs(folder: Path, count: int) -> None:
    """Write `count` file names that are hard links to a few files: memory depends on the number of names."""
    rng = np.random.default_rng(0)
    for number in range(count):
        file = folder / f"class{number % 10}" / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        if number < NUM_FILES:
            noise = rng.integers(0, 256, (12, 16, 3), np.uint8)
            Image.fromarray(noise).resize((160, 120)).save(file)
        else:
            os.link(folder / f"class{number % 10}" / f"{number % NUM_FILES:05d}.jpg", file)


def _peak_bytes_in_subprocess(job: str, scratch: Path, count: int) -> int:
    command = [sys.executable, __file__, "--memory", job, str(scratch), str(count)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def peak_bytes(job: str, scratch: Path, count: int) -> int:
    """The peak memory of one job, in bytes, of this process and of the processes that it starts."""
    from convatlas.data import open_dataset
    from convatlas.data.curation.pack import pack
    from convatlas.data.loading.labeled_samples import LabeledSamples
    from convatlas.data.loading.loader import iterate_batches
    from convatlas.data.loading.train_batches import TrainBatches
    from convatlas.data.transforms.preprocessing import center_crop_preprocessing
    from convatlas.data.transforms.random_crop import RandomResizedCrop

    samples: list[int] = []
    done = threading.Event()
    sampler = threading.Thread(target=_sample_memory, args=(samples, done))
    sampler.start()
    photographs = f"folder:{scratch}/photos{count}"
    pixel_store = scratch / f"pixels{count}"
    if job.startswith("pack"):
        files = "--files" in job
        out = scratch / f"files{count}" if files else pixel_store
        pack(open_dataset(photographs), out, shorter=96, files=files)
    else:
        dataset = open_dataset(f"packed:{pixel_store}" if "packed" in job else photographs)
        preprocessing = center_crop_preprocessing(3, (96, 96))
        batches = TrainBatches(
            LabeledSamples(dataset.splits["train"], preprocessing, RandomResizedCrop()), (), 100, 0
        )
        num_workers = 2 if "processes" in job else 0
        for _ in iterate_batches(batches, 0, batches.steps_per_epoch, num_workers):
            pass
    done.set()
    sampler.join()
    return max(samples)


def _sample_memory(samples: list[int], done: threading.Event) -> None:
    """Sample the private memory of this process and of each of its children, in bytes: without mapped files
    and without the buffers that they share."""
    children_file = Path("/proc/self/task", str(os.getpid()), "children")
    while not done.wait(0.01):
        for pid in [os.getpid(), *map(int, children_file.read_text().split())]:
            try:
                match = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            except OSError:  # the process has ended
                continue
            samples.append(int(match[1]) * 1024 if match else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print(peak_bytes(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
    else:
        main()
