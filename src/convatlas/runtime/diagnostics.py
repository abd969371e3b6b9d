"""What this installation and this machine can do: versions, devices, extras and caches (`doctor`)."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from convatlas import __version__
from convatlas.errors import UsageError
from convatlas.runtime.compilation import can_compile
from convatlas.runtime.device import best_precision, cpu_matrix_features
from convatlas.runtime.memory import memory_bytes
from convatlas.runtime.num_threads import default_threads, usable_cores

EXTRAS = {  # what each gives
    "boxes": "selective search, OpenCV's (ca.boxes)",
    "hf": "data sets and weights of the Hugging Face Hub (hf:NAME)",
    "onnx": "export to ONNX, and ONNX Runtime as an engine",
    "openvino": "the fastest engine on most CPUs, export to OpenVINO, int8",
    "sets": "scikit-learn's digits, scikit-image's photographs",
    "tensorboard": "train --log tensorboard",
    "dev": "the project's own tests",
}


def diagnose(cache_folder: Path) -> dict[str, Any]:
    """The document of `doctor`; its `problems` say what does not work, and what to do.

    cache_folder: the user's cache.
    """
    problems: list[str] = []
    try:
        threads = default_threads()
    except UsageError as error:
        problems.append(str(error))
        threads = usable_cores()
    devices = [_cpu(threads), *(_cuda(index) for index in range(torch.cuda.device_count()))]
    compiling = can_compile(torch.device("cpu"))
    if not compiling:
        problems.append("no C++ compiler: torch.compile does not work on the CPU; install g++ if you want it")
    cache = _cache(cache_folder, problems)
    return {
        "convatlas": __version__,
        "folder": str(Path(__file__).parent.parent),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "packages": _packages(),
        "devices": devices,
        "memory": memory_bytes(),
        "compiler": compiling,
        "extras": _extras(),
        "cache": cache,
        "problems": problems,
    }


def _cpu(threads: int) -> dict[str, Any]:
    return {
        "name": _cpu_name(),
        "kind": "cpu",
        "cores": usable_cores(),
        "threads": threads,
        "units": list(cpu_matrix_features()),
        "precision": best_precision(torch.device("cpu")),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cuda(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "kind": "cuda",
        "memory": properties.total_memory,
        "precision": best_precision(torch.device("cuda", index)),
    }


def _requirements() -> list[tuple[str, str]]:
    """(package, extra), the extra '' for the core, as the installed project names them."""
    pattern = re.compile(r"""([\w.-]+)[^;]*(?:;.*extra == ["']([\w-]+)["'])?""")
    matches = (pattern.match(line) for line in importlib.metadata.requires("convatlas") or ())
    return [(match[1], match[2] or "") for match in matches if match]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> dict[str, str | None]:
    """The versions of the core's packages; None for one that is missing."""
    return {package: _version(package) for package, extra in _requirements() if not extra}


def _extras() -> list[dict[str, Any]]:
    packages: dict[str, list[str]] = {}
    for package, extra in _requirements():
        if extra:
            packages.setdefault(extra, []).append(package)
    rows = []
    for extra, names in packages.items():
        versions = {name: _version(name) for name in names}
        rows.append(
            {
                "name": extra,
                "gives": EXTRAS.get(extra, ""),
                "installed": all(versions.values()),
                "packages": versions,
                "install": f"pip install 'convatlas[{extra}]'",
            }
        )
    return rows


def _cache(folder: Path, problems: list[str]) -> dict[str, Any]:
    """The user's cache and what its parts take."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    writable = nearest.is_dir() and os.access(nearest, os.W_OK)
    if not writable:
        problems.append(
            f"the cache {folder} cannot be written: what it would save is computed each time; choose another "
            "folder with CONVATLAS_CACHE"
        )
    parts = {}
    for part in sorted(folder.iterdir()) if folder.is_dir() else ():
        files = [part] if part.is_file() else [file for file in part.rglob("*") if file.is_file()]
        parts[part.name] = {"files": len(files), "bytes": sum(_size(file) for file in files)}
    free = shutil.disk_usage(nearest).free if nearest.is_dir() else 0
    return {"folder": str(folder), "writable": writable, "free": free, "parts": parts}


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # removed since it was listed
        return 0
