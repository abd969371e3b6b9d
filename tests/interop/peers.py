"""The other libraries, from the folder `.peers` (`make peers`), which only these tests see."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / ".peers"
_declared: list[Any] = []


def peer(name: str) -> ModuleType:
    """torchvision, timm or pytorchcv; skips the test visibly where they are not installed."""
    if not (FOLDER / name).is_dir():
        pytest.skip(f"{name} is not in .peers: make peers")
    if not _declared:
        # The wheel's compiled operators do not load beside a CPU build of torch; declared, they let the Python part be imported.
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)
