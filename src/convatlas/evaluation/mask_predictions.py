"""The file of a network's predictions of masks on a split: how they compare with the targets, by image."""

from pathlib import Path

import torch

from convatlas.data import Dataset
from convatlas.errors import UserError
from convatlas.evaluation.predictions import FORMAT, PredictionsMetadata, run_metadata
from convatlas.segmentation.task import MaskPredictions
from convatlas.storage import checked_safetensors
from convatlas.storage.records import from_json

_DTYPES = {"confusions": torch.int64, "losses": torch.float64, "indices": torch.int64}


def write_mask_predictions(
    path: Path, predictions: MaskPredictions, run: str, dataset: Dataset, split: str = "test"
) -> None:
    """Write the predictions of the run with the id `run`. Raises OSError when the disk refuses."""
    metadata = run_metadata(run, dataset, split, "whole")
    tensors = {name: torch.from_numpy(getattr(predictions, name)) for name in _DTYPES}
    checked_safetensors.write_checked(path, tensors, metadata)


def read_mask_predictions(path: Path) -> tuple[MaskPredictions, PredictionsMetadata]:
    """Raises UserError when the file is missing or damaged, or its content contradicts itself."""
    tensors, document = checked_safetensors.read_checked(path)
    metadata = from_json(document, PredictionsMetadata, f"{path}, its metadata")
    n, classes = tensors.get("indices", torch.empty(0)).numel(), len(metadata.classes)
    shapes = {"confusions": (n, classes, classes), "losses": (n,), "indices": (n,)}
    if metadata.format != FORMAT or {name: t.dtype for name, t in tensors.items()} != _DTYPES:
        raise UserError(f"{path} should hold confusions, losses and indices of format {FORMAT}")
    if not n or any(tensors[name].shape != shape for name, shape in shapes.items()):
        raise UserError(f"{path} should hold a confusion matrix of {classes} classes for each image")
    confusions, losses, indices = (tensors[name].numpy() for name in _DTYPES)
    return MaskPredictions(confusions, losses, indices), metadata
