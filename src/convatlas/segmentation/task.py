"""Segmentation as a task: one class a pixel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.dataset import Split
from convatlas.data.loading.batch import Batch
from convatlas.data.loading.masked_eval_batches import MaskedEvalBatches
from convatlas.data.loading.masked_samples import MaskedSamples
from convatlas.data.mask import IGNORE, Mask
from convatlas.data.task import PredictedRows, Scores
from convatlas.data.transforms.preprocessing import Preprocessing, UnreadableSample
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.optim.losses import PixelCrossEntropy
from convatlas.recipes import Recipe
from convatlas.segmentation.border_weights import border_weights
from convatlas.segmentation.comparison import compare_with_target
from convatlas.segmentation.instances import label_instances
from convatlas.segmentation.metrics import segmentation_scores
from convatlas.segmentation.predict import logit_windows


@dataclass(frozen=True)
class MaskPredictions:
    """How a network's masks compare with those of a split, one entry for each image that can be read."""

    confusions: NDArray[np.int64]  # (n, classes, classes): rows targets, columns predictions
    losses: NDArray[np.float64]  # (n,): the cross-entropy, summed over the image's pixels
    indices: NDArray[np.int64]  # (n,): the images' indices in the split, ascending
    unreadable: Sequence[UnreadableSample] = ()
    objects: NDArray[np.float64] | None = None  # (n, 2): the sum of the scores of its instances, their number


def mask_predictions(rows: PredictedRows) -> MaskPredictions:
    """Predictions whose rows are those of `ComparedMask.row`, with the two values of `objects` or without."""
    classes = isqrt(rows.values.shape[1] - 1)
    confusions, losses, objects = np.split(rows.values, (classes**2, classes**2 + 1), axis=1)
    return MaskPredictions(
        confusions.astype(np.int64).reshape(-1, classes, classes),
        losses[:, 0],
        rows.indices,
        rows.unreadable,
        objects if objects.size else None,
    )


class Segmentation:
    """The value of `data.task.Task` for networks that label pixels."""

    name = "segmentation"
    score, score_label = "mean_iou", "mean IU"
    train_score, train_score_label = "pixel_accuracy", "pixels"

    def samples(
        self, split: Split, preprocessing: Preprocessing, recipe: Recipe, classes: Sequence[str]
    ) -> MaskedSamples:
        assert isinstance(recipe.crop, RandomTile)
        assert isinstance(recipe.loss, PixelCrossEntropy)
        make_target: Callable[[Mask], Tensor] = class_target
        if recipe.loss.border_weight:
            weights = recipe.class_weights
            class_weights = [1.0 if isinstance(weights, str) else weights[name] for name in classes]
            make_target = partial(
                weighted_target,
                class_weights=np.array(class_weights),
                w0=recipe.loss.border_weight,
                sigma=recipe.loss.border_sigma,
            )
        return MaskedSamples(split, preprocessing, recipe.crop, make_target)

    def eval_source(
        self, split: Split, preprocessing: Preprocessing, batch: int, rank: int = 0, world_size: int = 1
    ) -> MaskedEvalBatches:
        return MaskedEvalBatches(split, preprocessing, rank, world_size)

    def evaluation_batch(self, requested: int, images: int) -> int:
        return 1  # images differ in size

    def example_targets(self, count: int, num_classes: int, preprocessing: Preprocessing) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        size = (count, *preprocessing.output_size)
        return torch.randint(num_classes, size, generator=generator, dtype=torch.uint8)

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        classes = targets if targets.dim() == 3 else targets[:, 0]
        counted = classes != IGNORE
        correct = (logits.argmax(1) == classes) & counted
        return correct.sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)

    def predict(
        self,
        model: Callable[[Tensor], Tensor],
        batch: Batch,
        preprocessing: Preprocessing,
        device: torch.device,
    ) -> NDArray[Any]:
        """(1, classes * classes + 1), float64: the row of the batch's image (`ComparedMask.row`)."""
        (image,), (target,) = batch.images, batch.targets
        size = target.shape[0], target.shape[1]
        windows = logit_windows(model, image.to(device), preprocessing, size)
        return compare_with_target(windows, target).row()[None]

    def predictions(self, rows: PredictedRows, split: Split) -> MaskPredictions:
        return mask_predictions(rows)

    def scores(self, predictions: MaskPredictions) -> Scores:
        """The scores of `segmentation_scores`, the mean loss over all pixels, and the number of images."""
        confusion = predictions.confusions.sum(axis=0)
        loss = float(predictions.losses.sum() / max(int(confusion.sum()), 1))
        return segmentation_scores(confusion) | {"loss": loss, "n": len(predictions.indices)}


def class_target(mask: Mask) -> Tensor:
    """(h, w), uint8: the classes of the pixels."""
    return torch.from_numpy(np.ascontiguousarray(mask.classes))


def weighted_target(mask: Mask, class_weights: NDArray[np.float64], w0: float, sigma: float) -> Tensor:
    """(2, h, w), float32: the classes of the pixels, and their weights by U-Net's eq. 2. Without instances,
    connected pixels of a class are one."""
    instances = label_instances(mask.classes, ignore=IGNORE) if mask.instances is None else mask.instances
    weights = border_weights(instances, mask.classes, class_weights, w0, sigma, IGNORE)
    return torch.from_numpy(np.stack([mask.classes.astype(np.float32), weights]))


SEGMENTATION = Segmentation()
