"""The predictions of a network on a split, and their file beside the network's weights: to compare two runs,
or to average several networks, neither the images nor another pass over them is needed.

Each sample has one row of logits, whatever views it was evaluated on; their softmax is the prediction of the
protocol. The 50,000 validation images of ImageNet take 200 MB a network; all their 144 crops would take 29
GB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from convatlas.data import Dataset
from convatlas.data.transforms.preprocessing import UnreadableSample
from convatlas.errors import UserError
from convatlas.evaluation import metrics
from convatlas.storage import checked_safetensors
from convatlas.storage.records import Record, from_json

FORMAT = 2
FILE = Path("predictions", "test.safetensors")  # in a run's folder
_DTYPES = {"logits": torch.float32, "labels": torch.int64, "indices": torch.int64}


class PredictionsMetadata(Record, frozen=True, kw_only=True):
    """The metadata of a file of predictions: the run, the data set and its hash (`data_sha256`), the split,
    the protocol and the classes.

    `eval` adds a hash of the network's description and weights (`model`), a hash of the sample indices if
    they are not the whole split (`subset`), a hash of the protocol's settings (`protocol`), the precision,
    the environment and the unreadable samples. A training run leaves these empty: its own files have them.
    """

    format: int
    run: str
    data: str
    data_sha256: str
    split: str
    crops: str
    classes: tuple[str, ...]
    model: str = ""
    subset: str = ""
    protocol: str = ""
    precision: str = ""
    environment: dict[str, str | int | bool] = {}
    unreadable: tuple[tuple[int, str, str], ...] = ()  # index in the split, file, reason

    def same_task(self, other: "PredictionsMetadata") -> bool:
        """Whether both are of the same weights on the same samples by the same protocol and precision."""
        fields = ("format", "data_sha256", "split", "subset", "protocol", "classes", "model", "precision")
        return all(getattr(self, field) == getattr(other, field) for field in fields)


@dataclass(frozen=True)
class Predictions:
    """A network's logits on a split, one row for each sample that can be read, in the split's order."""

    logits: metrics.Logits  # (n, classes), float32
    labels: metrics.Labels  # (n,)
    indices: metrics.Labels  # (n,): the samples' indices in the split, ascending
    unreadable: Sequence[UnreadableSample] = ()
    metadata: PredictionsMetadata | None = None  # None for those that no file or request describes


def run_metadata(run: str, dataset: Dataset, split: str, crops: str) -> PredictionsMetadata:
    """The metadata of the predictions of the run with the id `run` on a split of its data."""
    return PredictionsMetadata(
        format=FORMAT,
        run=run,
        data=dataset.name,
        data_sha256=dataset.sha256,
        split=split,
        crops=crops,
        classes=dataset.classes,
    )


def write_run_predictions(
    path: Path,
    predictions: Predictions,
    run: str,
    dataset: Dataset,
    split: str = "test",
    crops: str = "center",
) -> None:
    """Write the predictions of the run with the id `run` on a split of `dataset`, without the unreadable
    samples, which the run's log lists. Raises OSError when the disk refuses."""
    metadata = run_metadata(run, dataset, split, crops)
    logits, labels, indices = predictions.logits, predictions.labels, predictions.indices
    write_predictions(path, Predictions(logits, labels, indices, metadata=metadata))


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions that have metadata. Raises OSError when the disk refuses."""
    assert predictions.metadata is not None
    tensors = {name: torch.from_numpy(getattr(predictions, name)) for name in _DTYPES}
    unreadable = tuple((sample.index, sample.file, sample.reason) for sample in predictions.unreadable)
    checked_safetensors.write_checked(path, tensors, predictions.metadata.replace(unreadable=unreadable))


def read_predictions(path: Path) -> Predictions:
    """Read predictions with their metadata. Raises UserError when the file is missing or damaged, has another
    format version, or its content contradicts itself."""
    tensors, document = checked_safetensors.read_checked(path)
    source = f"{path}, its metadata"
    version = from_json(document, dict[str, Any], source).get("format")
    if version != FORMAT:
        raise UserError(f"{path} has format version {version}: this ConvAtlas reads version {FORMAT}")
    metadata = from_json(document, PredictionsMetadata, source)
    if {name: tensor.dtype for name, tensor in tensors.items()} != _DTYPES:
        raise UserError(f"{path} should hold logits (float32), labels and indices (int64), and nothing else")
    logits, labels, indices = (tensors[name] for name in _DTYPES)
    n = indices.numel()
    num_classes = len(metadata.classes)
    if not n or (logits.shape, labels.shape, indices.shape) != ((n, num_classes), (n,), (n,)):
        raise UserError(f"{path} should hold {num_classes} logits, a label and an index for each sample")
    if not logits.isfinite().all():
        raise UserError(f"{path} holds logits that are not finite")
    if labels.min() < 0 or labels.max() >= num_classes or indices[0] < 0 or (indices.diff() <= 0).any():
        raise UserError(
            f"{path} should hold labels below {num_classes}, and every sample once in the split's order"
        )
    unreadable = [UnreadableSample(*row) for row in metadata.unreadable]
    return Predictions(logits.numpy(), labels.numpy(), indices.numpy(), unreadable, metadata)
