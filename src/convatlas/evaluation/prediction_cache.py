"""Answers kept beside the weights that gave them, so that a network is asked once: ensembles, their subsets, and some of the images follow
from what is kept. They count as long as weights, data, protocol and precision are the same; to ask again, remove them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.data.transforms.preprocessing import UnreadableSample
from convatlas.errors import UserError, printable
from convatlas.evaluation import predictions
from convatlas.evaluation.predict import Predictions
from convatlas.evaluation.predictions import PredictionsMetadata
from convatlas.storage.records import diff, record_sha256

MAX_BYTES = 2 << 30  # ImageNet's training images take 5 GB


def cache_dir_for(weights: Path) -> Path:
    """The folder for the answers of a run, or of a lone file."""
    if weights.is_dir():
        return weights / "answers"
    return weights.with_name("answers" if weights.name == "model.safetensors" else f"{weights.stem}-answers")


def subset_id(places: NDArray[np.int64] | None) -> str:
    """What a card calls some of a split's images; all of them are ''."""
    return "" if places is None else record_sha256(places.tolist())


def load_cached(folder: Path, wanted: PredictionsMetadata, places: NDArray[np.int64] | None) -> tuple[Predictions | None, list[str]]:
    """The answers to what `wanted` asks about the images at `places` (None: all), if they are kept, and what there is to say of them."""
    notes: list[str] = []
    for card in (wanted, *((wanted.replace(subset=""),) if wanted.subset else ())):
        path = cache_file(folder, card)
        if not path.exists():
            continue
        try:
            kept = predictions.read_predictions(path)
        except UserError as error:
            notes.append(f"{error}; the network was asked again")
            continue
        if not kept.metadata.same_task(card):
            continue
        changes = diff(kept.metadata.environment, wanted.environment)
        if changes:
            notes.append(f"{printable(path)} was answered in another environment ({'; '.join(changes)}): remove it to ask again here")
        answers = Predictions(kept.logits, kept.labels, kept.indices, [UnreadableSample(*one) for one in kept.metadata.unread])
        return (answers if card is wanted else _subset(answers, places)), notes
    return None, notes


def store(folder: Path, card: PredictionsMetadata, answers: Predictions) -> list[str]:
    """Write the answers; what there is to say where that cannot be done, since it only saves time."""
    if answers.logits.nbytes > MAX_BYTES:
        return [f"the answers take {answers.logits.nbytes / 1e9:.1f} GB and are not kept: a split of fewer images would be"]
    unread = tuple((one.index, one.file, one.reason) for one in answers.unreadable)
    try:
        folder.mkdir(exist_ok=True)
        predictions.write_predictions(cache_file(folder, card), answers, card.replace(unread=unread))
    except OSError as error:
        return [f"the answers could not be kept in {printable(folder)} ({error.strerror}): they will be asked for again"]
    return []


def cache_file(folder: Path, card: PredictionsMetadata) -> Path:
    """One for each split of each data set, seen in each way; other weights, or another precision, replace it."""
    parts = [card.split, card.crops, card.digest[:8], *([card.subset[:8]] if card.subset else [])]
    return folder / f"{'-'.join(parts)}.safetensors"


def _subset(answers: Predictions, places: NDArray[np.int64] | None) -> Predictions:
    assert places is not None
    here = np.isin(answers.indices, places)
    unread = [one for one in answers.unreadable if one.index in places]
    return Predictions(answers.logits[here], answers.labels[here], answers.indices[here], unread)
