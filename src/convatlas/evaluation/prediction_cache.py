"""A cache of predictions beside the weights, so that a network is evaluated once: ensembles, their subsets
and lists of images follow from it.

An entry is valid as long as weights, data, protocol and precision are the same. Remove the folder to evaluate
again.
"""

from dataclasses import replace
from pathlib import Path

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
    notes: list[str] = []
    whole_split = metadata.replace(subset="")
    for candidate in (metadata, whole_split) if metadata.subset else (metadata,):
        path = cache_file(folder, candidate)
        if not path.exists():
            continue
        try:
            predictions = read_predictions(path)
        except UserError as error:
            notes.append(f"{error}; the network was evaluated again")
            continue
        assert predictions.metadata is not None
        if not predictions.metadata.same_task(candidate):
            continue
        changes = diff(predictions.metadata.environment, metadata.environment)
        if changes:
            notes.append(
                f"{printable(path)} was computed in another environment ({'; '.join(changes)}): "
                "remove it to evaluate again here"
            )
        if candidate is not metadata:
            assert indices is not None
            predictions = _select(predictions, indices)
        return predictions, notes
    return None, notes


def store(folder: Path, predictions: Predictions) -> list[str]:
    """Write predictions that have metadata into the cache. Returns notes for the user where that is
    impossible, which is no error: the cache only saves time."""
    assert predictions.metadata is not None
    num_bytes = predictions.logits.nbytes
    if num_bytes > MAX_BYTES:
        size = f"{num_bytes / 1e9:.1f} GB"
        return [f"the predictions take {size} and are not cached: those of fewer images would be"]
    if folder.is_symlink():
        return [f"{printable(folder)} is a link, and is not written through: the predictions are not cached"]
    try:
        folder.mkdir(exist_ok=True)
        write_predictions(cache_file(folder, predictions.metadata), predictions)
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
