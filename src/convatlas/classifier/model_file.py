"""`model.safetensors`: weights, classes, preprocessing and provenance in one checked file."""

from pathlib import Path
from typing import Any

import torch

from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.models import Architecture
from convatlas.runtime.device import Precision
from convatlas.storage import checked_safetensors
from convatlas.storage.records import Record

FORMAT = 1


MAX_BATCH = 1 << 16  # images, in evaluation


class ClassifierMetadata(Record, frozen=True, kw_only=True):
    """What a `model.safetensors` says of itself."""

    format: int
    network: Architecture
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    precision: Precision
    batch: int  # the one shape in which it is evaluated
    provenance: dict[str, Any]
    metrics: dict[str, Any]


def write_model_file(path: Path, card: ClassifierMetadata, model: torch.nn.Module, standardiser: Normalizer) -> None:
    """Write `model.safetensors`: the network's own keys, the standardiser's under `preprocessing.`. Raises OSError."""
    tensors = dict(model.state_dict()) | {f"preprocessing.{name}": t for name, t in standardiser.state_dict().items()}
    checked_safetensors.write_checked(path, tensors, card)
