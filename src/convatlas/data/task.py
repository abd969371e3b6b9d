"""A task: what a target is, what is counted while training, and how predictions are scored.

Loop, loader and evaluation ask it, and know no task themselves. The values are
`evaluation.classification.CLASSIFICATION` and `segmentation.task.SEGMENTATION`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.dataset import Split
from convatlas.data.loading.batch import Batch, SampleSource
from convatlas.data.transforms.preprocessing import Preprocessing, UnreadableSample

Scores = dict[str, Any]


class EvalSource(Protocol):
    """A rank's share of the evaluation batches of a split."""

    @property
    def split(self) -> Split: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def num_batches(self) -> int:
        """Of all ranks."""

    @property
    def steps(self) -> int:
        """Of this rank."""

    def __getitem__(self, step: int) -> Any:
        """The batch of a step, or the UserError that loading it raised."""


class PredictedRows(NamedTuple):
    """What a task keeps of the predictions on a split: a row for each sample that can be read, in the split's
    order."""

    values: NDArray[Any]  # (n, ...)
    indices: NDArray[np.int64]  # (n,), ascending
    unreadable: Sequence[UnreadableSample]


class SplitPredictions(Protocol):
    """The predictions on a split, in the form of their task."""

    @property
    def unreadable(self) -> Sequence[UnreadableSample]: ...


class Task(Protocol):
    """Scores are in percent, and higher ones better."""

    @property
    def name(self) -> str: ...
    @property
    def score(self) -> str:
        """The key of the score that a plateau and the best validation are judged by."""

    @property
    def score_label(self) -> str:
        """The score in words."""

    @property
    def train_score(self) -> str:
        """The key of the score that is counted while training."""

    @property
    def train_score_label(self) -> str: ...
    def samples(
        self, split: Split, preprocessing: Preprocessing, recipe: Any, classes: Sequence[str]
    ) -> SampleSource:
        """The training samples of a split, as a complete recipe (`recipes.Recipe`) takes them."""

    def eval_source(
        self, split: Split, preprocessing: Preprocessing, batch: int, rank: int = 0, world_size: int = 1
    ) -> EvalSource:
        """A rank's evaluation batches."""

    def evaluation_batch(self, requested: int, images: int) -> int:
        """The images of one batch of evaluation, of the smallest split's `images`."""

    def example_targets(self, count: int, num_classes: int, preprocessing: Preprocessing) -> Tensor:
        """Targets of `count` images at random, where any serve: to measure a training step."""

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(n,): the share of each sample's targets that the logits predict, 0 to 1."""

    def predict(
        self,
        model: Callable[[Tensor], Tensor],
        batch: Batch,
        preprocessing: Preprocessing,
        device: torch.device,
    ) -> NDArray[Any]:
        """The row of each image of a batch. `model` maps uint8 images to logits."""

    def predictions(self, rows: PredictedRows, split: Split) -> Any:
        """The predictions on a split (`SplitPredictions`)."""

    def scores(self, predictions: Any) -> Scores:
        """The scores that are logged: `score`, `loss` and `n` among them."""
