"""Predictions of an evaluation that is under way: an interrupted one, or one that lost a rank, computes only
the rest. They stand in a folder beside the cached predictions until all are there."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from convatlas.errors import UserError
from convatlas.evaluation.predict import BatchPredictions
from convatlas.evaluation.predictions import (
    Predictions,
    PredictionsMetadata,
    read_predictions,
    write_predictions,
)

SAVE_SECONDS = 10.0  # between two files


@dataclass
class PartialPredictions:
    """The files of one evaluation in `folder` (None: nothing is saved); those of other weights, data or
    settings are not read.

    A folder that cannot be written, or is a link, is no error: the files only save time.
    """

    folder: Path | None
    metadata: PredictionsMetadata
    rank: int = 0
    clock: Callable[[], float] = time.monotonic
    _unsaved: list[BatchPredictions] = field(default_factory=list)
    _last_save: float = 0.0

    def __post_init__(self) -> None:
        self._last_save = self.clock()
        if self.folder is not None and (self.folder.is_symlink() or self.folder.parent.is_symlink()):
            self.folder = None  # nothing is written through a link, or deleted behind it

    def read(self) -> list[BatchPredictions]:
        """The predictions of all ranks that were saved before. Damaged files are left out."""
        batches = []
        for path in sorted(self.folder.glob("*.safetensors")) if self.folder is not None else ():
            try:
                part = read_predictions(path)
            except UserError:
                continue
            if part.metadata is not None and part.metadata.same_task(self.metadata):
                batches.append(BatchPredictions(part.logits, part.indices, list(part.unreadable)))
        return batches

    def add(self, batch: BatchPredictions) -> None:
        """Take a batch; every SAVE_SECONDS, save."""
        if self.folder is None:
            return
        self._unsaved.append(batch)
        if self.clock() - self._last_save > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Save the batches since the last time."""
        batches = [batch for batch in self._unsaved if len(batch.indices)]
        self._unsaved = []
        self._last_save = self.clock()
        if not batches or self.folder is None:
            return
        indices = np.concatenate([batch.indices for batch in batches])
        order = np.argsort(indices)
        part = Predictions(
            np.concatenate([batch.rows for batch in batches])[order],
            np.zeros(len(indices), np.int64),  # the split has the labels
            indices[order],
            [sample for batch in batches for sample in batch.unreadable],
            self.metadata,
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_predictions(self.folder / f"{indices.min():09d}-{self.rank}.safetensors", part)
        except OSError:
            self.folder = None

    def remove(self) -> None:
        """Remove the folder, when the predictions are complete."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
