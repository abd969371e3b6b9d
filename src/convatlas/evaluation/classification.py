"""Classification as a task: one label an image."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.dataset import Split
from convatlas.data.loading.batch import Batch
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.labeled_samples import LabeledSamples
from convatlas.data.task import PredictedRows, Scores
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.evaluation.metrics import score_samples
from convatlas.evaluation.predictions import Predictions
from convatlas.evaluation.results import classification_scores
from convatlas.recipes import Recipe


class Classification:
    """The value of `data.task.Task` for networks that classify images."""

    name = "classification"
    score = train_score = "top1"
    score_label = train_score_label = "top-1"

    def samples(
        self, split: Split, preprocessing: Preprocessing, recipe: Recipe, classes: Sequence[str]
    ) -> LabeledSamples:
        assert not isinstance(recipe.crop, RandomTile)
        return LabeledSamples(split, preprocessing, recipe.crop)

    def eval_source(
        self, split: Split, preprocessing: Preprocessing, batch: int, rank: int = 0, world_size: int = 1
    ) -> EvalBatches:
        return EvalBatches(split, preprocessing, batch, rank, world_size)

    def evaluation_batch(self, requested: int, images: int) -> int:
        return min(requested, images)

    def example_targets(self, count: int, num_classes: int, preprocessing: Preprocessing) -> Tensor:
        return torch.randint(num_classes, (count,), generator=torch.Generator().manual_seed(0))

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        return logits.argmax(1) == targets

    def predict(
        self,
        model: Callable[[Tensor], Tensor],
        batch: Batch,
        preprocessing: Preprocessing,
        device: torch.device,
    ) -> NDArray[Any]:
        """(images, classes), float32."""
        return model(batch.images.to(device)).float().cpu().numpy()

    def predictions(self, rows: PredictedRows, split: Split) -> Predictions:
        return Predictions(rows.values, split.labels[rows.indices], rows.indices, rows.unreadable)

    def scores(self, predictions: Predictions) -> Scores:
        return classification_scores(score_samples(predictions.logits, predictions.labels))


CLASSIFICATION = Classification()
