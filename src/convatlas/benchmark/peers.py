"""The libraries that ConvAtlas is compared with: installed beside it, or in the folder `.peers` (make
peers)."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(".peers").absolute()
_operator_libraries: list[Any] = []  # kept alive: torch forgets operators with their library


def is_installed(name: str) -> bool:
    return (_FOLDER / name).is_dir() or find_spec(name) is not None


def torchvision_has(model: str) -> bool:
    return is_installed("torchvision") and hasattr(import_peer("torchvision.models"), model)


def timm_has(model: str) -> bool:
    return is_installed("timm") and model in import_peer("timm").list_models()


def import_peer(name: str) -> Any:
    """Import a module of one of the libraries."""
    if (_FOLDER / "torchvision").is_dir() and not _operator_libraries:
        # The operators of torchvision's wheel do not load beside a CPU build of torch. Declared here, they
        # let the rest of torchvision be imported.
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operator_libraries.append(library)
        sys.path.append(str(_FOLDER))
    return import_module(name)
