"""The file of a network's predictions of masks on a split: how they compare with the targets, by image."""

from pathlib import Path

import numpy as np
import torch

from convatlas.data.transforms.preprocessing import UnreadableSample
from convatlas.errors import UserError
from convatlas.evaluation.predictions import FORMAT, PredictionsMetadata
from convatlas.segmentation.task import MaskPredictions
from convatlas.storage import checked_safetensors
from convatlas.storage.records import from_json

_DTYPES = {"confusions": torch.int64, "losses": torch.float64, "indices": torch.int64}
_OBJECTS = {"objects": torch.float64}  # of data with instances


def write_mask_predictions(path: Path, predictions: MaskPredictions, metadata: PredictionsMetadata) -> None:
    """Write the predictions, and their unreadable samples into the metadata. Raises OSError when the disk
    refuses."""
    names = _DTYPES if predictions.objects is None else _DTYPES | _OBJECTS
    tensors = {name: torch.from_numpy(np.ascontiguousarray(getattr(predictions, name))) for name in names}
    unreadable = tuple((sample.index, sample.file, sample.reason) for sample in predictions.unreadable)
    checked_safetensors.write_checked(path, tensors, metadata.replace(unreadable=unreadable))


def read_mask_predictions(path: Path) -> tuple[MaskPredictions, PredictionsMetadata]:
    """Raises UserError when the file is missing or damaged, or its content contradicts itself."""
    tensors, document = checked_safetensors.read_checked(path)
    metadata = from_json(document, PredictionsMetadata, f"{path}, its metadata")
    n, classes = tensors.get("indices", torch.empty(0)).numel(), len(metadata.classes)
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    if metadata.format != FORMAT or dtypes not in (_DTYPES, _DTYPES | _OBJECTS):
        raise UserError(f"{path} should hold confusions, losses and indices of format {FORMAT}")
    shapes = {"confusions": (n, classes, classes), "losses": (n,), "indices": (n,), "objects": (n, 2)}
    if not n or any(tensor.shape != shapes[name] for name, tensor in tensors.items()):
        raise UserError(f"{path} should hold a confusion matrix of {classes} classes for each image")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    unreadable = [UnreadableSample(*row) for row in metadata.unreadable]
    return MaskPredictions(**arrays, unreadable=unreadable), metadata
