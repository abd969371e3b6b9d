"""Write docs/generated/data_speed.md: `convatlas bench data`, and the memory that packing and loading take (make bench-data)."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from convatlas.benchmark import data

TARGET = Path(__file__).parent / "generated" / "data_speed.md"
SETS = (1_000, 20_000)
JOBS = ("pack --files", "pack --side 96", "load files", "load files, 2 processes", "load packed pixels")


def main() -> None:
    command = [sys.executable, "-m", "convatlas", "bench", "data", "--json", *sys.argv[1:]]
    document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    speeds = {row["name"]: row["images_per_second"] for row in document["rows"]}
    lines = [
        "# How fast photographs are loaded",
        "",
        f"Made by `make bench-data`; do not edit. {' '.join((data.__doc__ or '').split())}",
        "",
        f"{document['machine']}; {document['images']} JPEGs of 500x375, {document['bytes_per_image'] / 1e3:.0f} kB each; medians of "
        f"{document['rounds']} rounds. Baseline: {document['baseline']}.",
        "",
        "| row | images/s | to baseline | to it with our allocator settings | to torchvision, same processes | peak MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in document["rows"]:
        figures = f"{row['images_per_second']:,.0f} | {row['ratio']:.2f} | {row['ratio_tuned']:.2f} | {row['ratio_same']:.2f}"
        lines.append(f"| {row['name']} | {figures} | {row['memory_bytes'] / 1e6:,.0f} |")
    share, pixels = 100 * speeds["files"] / speeds["libjpeg decodes"], 100 * speeds["packed pixels"] / speeds["crops of pixels"]
    lines += [
        "",
        f"From JPEG files, one process delivers {share:.0f} % of the images that one thread of libjpeg-turbo decodes: it decodes in as "
        f"many threads as torch computes in. From packed pixels it delivers {pixels:.0f} % of what one thread resizes.",
        "",
        "## Memory",
        "",
        "Peak memory of one pass over images of 160x120, in MB, of the largest process; mapped pages of a store, which the system takes "
        "back when it needs them, are left out. PyTorch alone takes about 150.",
        "",
        "| | " + " | ".join(f"{n:,} images" for n in SETS) + " |",
        "|---|" + "---:|" * len(SETS),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for n in SETS:
            _photos(Path(scratch, f"photos{n}"), n)
        for job in JOBS:
            peaks = [_in_a_process(job, Path(scratch), n) for n in SETS]
            lines.append(f"| {job} | " + " | ".join(f"{peak / 1e6:.0f}" for peak in peaks) + " |")
    TARGET.write_text("\n".join(lines) + "\n")


def _photos(folder: Path, count: int) -> None:
    """Many names of a few files: what memory hangs on is the number of names."""
    rng = np.random.default_rng(0)
    for number in range(count):
        file = folder / f"class{number % 10}" / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        first = folder / f"class{number % 10}" / f"{number % 100:05d}.jpg"
        if number < 100:
            Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((160, 120)).save(file)
        else:
            os.link(first, file)


def _in_a_process(job: str, scratch: Path, count: int) -> int:
    command = [sys.executable, __file__, "--memory", job, str(scratch), str(count)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def memory(job: str, scratch: Path, count: int) -> int:
    """Peak bytes of one job in this process and those that it starts."""
    from convatlas.data import open_dataset
    from convatlas.data.curation.pack import pack
    from convatlas.data.loading.loader import iterate_batches
    from convatlas.data.loading.train_batches import TrainBatches
    from convatlas.data.transforms.preprocessing import center_crop_preprocessing
    from convatlas.data.transforms.random_crop import RandomResizedCrop

    peaks: list[int] = []
    watch = threading.Event()
    watcher = threading.Thread(target=_watch, args=(peaks, watch))
    watcher.start()
    store = scratch / f"pixels{count}"
    if job.startswith("pack"):
        files = "--files" in job
        pack(open_dataset(f"folder:{scratch}/photos{count}"), scratch / f"files{count}" if files else store, shorter=96, files=files)
    else:
        dataset = open_dataset(f"packed:{store}" if "packed" in job else f"folder:{scratch}/photos{count}")
        data = TrainBatches(dataset.splits["train"], center_crop_preprocessing(3, (96, 96)), (), 100, 0, RandomResizedCrop())
        for _ in iterate_batches(data, 0, data.steps_per_epoch, 2 if "processes" in job else 0):
            pass
    watch.set()
    watcher.join()
    return max(peaks)


def _watch(peaks: list[int], done: threading.Event) -> None:
    """The memory of this process and of its children that is theirs alone: no mapped files, no buffers that they share."""
    while not done.wait(0.01):
        for child in [os.getpid(), *(int(child) for child in Path("/proc/self/task", str(os.getpid()), "children").read_text().split())]:
            try:
                found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{child}/status").read_text())
            except OSError:  # it has ended
                continue
            peaks.append(int(found[1]) * 1024 if found else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print(memory(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
    else:
        main()
