"""A cache of predictions beside the weights, so that a network is evaluated once: ensembles, their subsets
and lists of images follow from it.

An entry is valid as long as weights, data, protocol and precision are the same. Remove the folder to evaluate
again.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from convatlas.errors import UserError, printable
from convatlas.evaluation import metrics
from convatlas.evaluation.predictions import (
    Predictions,
    PredictionsMetadata,
    read_predictions,
    write_predictions,
)
from convatlas.storage.records import diff, record_sha256

T = TypeVar("T")
MAX_BYTES = 2 << 30  # the training images of ImageNet take 5 GB


def cache_dir_for(weights: Path) -> Path:
    """The folder for the predictions of a run's folder, or of a single file of weights."""
    if weights.is_dir():
        return weights / "predictions"
    return weights.with_name(
        "predictions" if weights.name == "model.safetensors" else f"{weights.stem}-predictions"
    )


def subset_id(indices: metrics.Labels | None) -> str:
    """The hash of sample indices in `PredictionsMetadata.subset`; '' for the whole split (None)."""
    return "" if indices is None else record_sha256(indices.tolist())


def load_cached(
    folder: Path, metadata: PredictionsMetadata, indices: metrics.Labels | None
) -> tuple[Predictions | None, list[str]]:
    """The cached predictions for the task of `metadata` on the samples at `indices` (None: the whole split),
    or None; and notes for the user. Predictions on the whole split also serve for some of its samples."""
    predictions, notes = load_entry(folder, metadata, _read)
    if predictions is None and indices is not None:
        predictions, more_notes = load_entry(folder, metadata.replace(subset=""), _read)
        notes += more_notes
        predictions = predictions and _select(predictions, indices)
    return predictions, notes


def load_entry(
    folder: Path, metadata: PredictionsMetadata, read: Callable[[Path], tuple[T, PredictionsMetadata]]
) -> tuple[T | None, list[str]]:
    """What `read` makes of the entry for exactly the task of `metadata`, or None; and notes for the user."""
    path = cache_file(folder, metadata)
    if not path.exists():
        return None, []
    try:
        predictions, cached_metadata = read(path)
    except UserError as error:
        return None, [f"{error}; the network was evaluated again"]
    if not cached_metadata.same_task(metadata):
        return None, []
    changes = diff(cached_metadata.environment, metadata.environment)
    if not changes:
        return predictions, []
    return predictions, [
        f"{printable(path)} was computed in another environment ({'; '.join(changes)}): "
        "remove it to evaluate again here"
    ]


def _read(path: Path) -> tuple[Predictions, PredictionsMetadata]:
    predictions = read_predictions(path)
    assert predictions.metadata is not None
    return predictions, predictions.metadata


def store(folder: Path, predictions: Predictions) -> list[str]:
    """Write predictions that have metadata into the cache. Returns notes as `store_entry`."""
    assert predictions.metadata is not None
    num_bytes = predictions.logits.nbytes
    if num_bytes > MAX_BYTES:
        size = f"{num_bytes / 1e9:.1f} GB"
        return [f"the predictions take {size} and are not cached: those of fewer images would be"]
    return store_entry(folder, predictions.metadata, partial(write_predictions, predictions=predictions))


def store_entry(folder: Path, metadata: PredictionsMetadata, write: Callable[[Path], None]) -> list[str]:
    """Have `write` make the entry for the task of `metadata`. Returns notes for the user where that is
    impossible, which is no error: the cache only saves time."""
    if folder.is_symlink():
        return [f"{printable(folder)} is a link, and is not written through: the predictions are not cached"]
    try:
        folder.mkdir(exist_ok=True)
        write(cache_file(folder, metadata))
    except OSError as error:
        problem = f"could not be cached in {printable(folder)} ({error.strerror})"
        return [f"the predictions {problem}: they will be computed again"]
    return []


def cache_file(folder: Path, metadata: PredictionsMetadata) -> Path:
    """The file of a task: one for each data set, split, protocol and subset. Those of other weights or of
    another precision replace it."""
    parts = [metadata.split, metadata.crops, metadata.data_sha256[:8]]
    if metadata.subset:
        parts.append(metadata.subset[:8])
    return folder / f"{'-'.join(parts)}.safetensors"


def _select(predictions: Predictions, indices: metrics.Labels) -> Predictions:
    """The predictions on the samples at `indices`."""
    rows = np.isin(predictions.indices, indices)
    return replace(
        predictions,
        logits=predictions.logits[rows],
        labels=predictions.labels[rows],
        indices=predictions.indices[rows],
        unreadable=[sample for sample in predictions.unreadable if sample.index in indices],
    )
