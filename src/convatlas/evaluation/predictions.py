"""What a network answered on a split, kept sample by sample beside its weights: whoever compares two runs, or averages several
networks, needs neither images nor another pass.

Of every sample there is one vector, whatever it was seen through: logits whose softmax is what the protocol predicts. The 50,000
validation images of ImageNet take 200 MB a network; all their 144 crops would take 29 GB.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from convatlas.data import Dataset
from convatlas.errors import UserError
from convatlas.evaluation import metrics
from convatlas.evaluation.predict import Predictions
from convatlas.storage import checked_safetensors
from convatlas.storage.records import Record, from_json

FORMAT = 1
FILE = "test.safetensors"  # in a run's folder
_TYPES = {"logits": torch.float32, "labels": torch.int64, "indices": torch.int64}


class PredictionsMetadata(Record, frozen=True, kw_only=True):
    """What the file says of itself: who answered, on which split of which data, seen how. `digest` is the data's.

    `eval` also says which network (`model`, a hash of its description and its weights), which images of the split if not all (`subset`, a
    hash of their places), what it saw of them (`protocol`, a hash), the precision, the environment, and what could not be read.
    Training, which asks once, leaves that to its run.
    """

    format: int
    run: str
    data: str
    digest: str
    split: str
    crops: str
    classes: tuple[str, ...]
    model: str = ""
    subset: str = ""
    protocol: str = ""
    precision: str = ""
    environment: dict[str, str | int | bool] = {}
    unread: tuple[tuple[int, str, str], ...] = ()  # place in the split, file, reason

    def same_task(self, other: "PredictionsMetadata") -> bool:
        """Whether both are of the same weights, asked about the same images in the same way."""
        fields = ("format", "digest", "split", "subset", "protocol", "classes", "model", "precision")
        return all(getattr(self, field) == getattr(other, field) for field in fields)


class StoredPredictions(NamedTuple):
    metadata: PredictionsMetadata
    logits: metrics.Logits  # (n, classes), float32
    labels: metrics.Labels  # (n,)
    indices: metrics.Labels  # (n,): places in the split, ascending; those that could not be read are missing


def write_run_predictions(path: Path, answers: Predictions, run: str, dataset: Dataset, split: str = "test", crops: str = "center") -> None:
    """Write the answers that the run with this id gave on a split of `dataset`. Raises OSError when the disk refuses."""
    write_predictions(
        path,
        answers,
        PredictionsMetadata(
            format=FORMAT, run=run, data=dataset.name, digest=dataset.sha256, split=split, crops=crops, classes=dataset.classes
        ),
    )


def write_predictions(path: Path, answers: Predictions, card: PredictionsMetadata) -> None:
    """Raises OSError when the disk refuses."""
    checked_safetensors.write_checked(path, {name: torch.from_numpy(getattr(answers, name)) for name in _TYPES}, card)


def read_predictions(path: Path) -> StoredPredictions:
    """Raises UserError when the file is missing, damaged, of another format version, or says what cannot be."""
    tensors, document = checked_safetensors.read_checked(path)
    where = f"{path}, its metadata"
    version = from_json(document, dict[str, Any], where).get("format")
    if version != FORMAT:
        raise UserError(f"{path} has format version {version}: this ConvAtlas reads version {FORMAT}")
    card = from_json(document, PredictionsMetadata, where)
    if {name: tensor.dtype for name, tensor in tensors.items()} != _TYPES:
        raise UserError(f"{path} should hold logits (float32), labels and indices (int64), and nothing else")
    logits, labels, indices = (tensors[name] for name in _TYPES)
    n, classes = indices.numel(), len(card.classes)
    if not n or (logits.shape, labels.shape, indices.shape) != ((n, classes), (n,), (n,)):
        raise UserError(f"{path} should hold {classes} logits, a label and an index for each sample")
    if not logits.isfinite().all():
        raise UserError(f"{path} holds answers that are not finite")
    if labels.min() < 0 or labels.max() >= classes or indices[0] < 0 or (indices.diff() <= 0).any():
        raise UserError(f"{path} should hold labels below {classes}, and every sample once in the split's order")
    return StoredPredictions(card, logits.numpy(), labels.numpy(), indices.numpy())
