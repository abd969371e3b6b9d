"""The prediction loop: a network on every sample of a split once, in batches of one fixed shape."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convatlas.data import Split
from convatlas.data.loading.batch import Batch
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.loading.multi_crop_batches import MultiCropBatch, MultiCropBatches
from convatlas.data.loading.selected_steps import SelectedSteps
from convatlas.data.transforms.preprocessing import UnreadableSample
from convatlas.errors import UserError
from convatlas.evaluation import metrics
from convatlas.evaluation.ensemble import Average, average_logits
from convatlas.evaluation.predictions import Predictions
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.progress import track


class BatchPredictions(NamedTuple):
    """The predictions of some samples of a split."""

    logits: metrics.Logits  # (n, classes)
    indices: metrics.Labels  # (n,): in the split, without those of unreadable samples
    unreadable: list[UnreadableSample]


def predict_split(
    model: Callable[[Tensor], Tensor],
    source: EvalBatches | MultiCropBatches,
    device: torch.device,
    num_workers: int = 0,
    average: Average = "probabilities",
    description: str = "",
    ranks: Ranks = SINGLE_PROCESS,
    after_batch: Callable[[int], None] | None = None,
) -> Predictions:
    """Predict every sample of `source` that can be read, in the split's order.

    `source` holds this rank's share of the batches, and every rank gets all predictions. `after_batch` is
    called with the number of each batch that this rank has predicted. The other arguments are those of
    `predict_batches`. Raises UserError when no sample of the split can be read, or a logit is not finite.
    """
    steps = range(source.steps)
    predicted: list[BatchPredictions] = []
    with closing(
        predict_batches(model, source, steps, device, num_workers, average, description, ranks)
    ) as batches:
        for number, batch in enumerate(batches):
            predicted.append(batch)
            if after_batch is not None:
                after_batch(number)
    return merge_batches(list(chain(*ranks.all_gather(predicted))), source.split)


def predict_batches(
    model: Callable[[Tensor], Tensor],
    source: EvalBatches | MultiCropBatches,
    steps: Sequence[int],
    device: torch.device,
    num_workers: int = 0,
    average: Average = "probabilities",
    description: str = "",
    ranks: Ranks = SINGLE_PROCESS,
) -> Generator[BatchPredictions]:
    """Yield the predictions of the given steps of `source`. Close it to end the workers that load the data.

    `model` maps uint8 images (n, c, h, w) to logits (n, classes); the shape is the same for every batch,
    except for full images (`FullImage`). The logits of an image's views are averaged by `average`. With a
    `description`, progress is shown under it.
    """
    batches = iterate_batches(SelectedSteps(source, steps), 0, len(steps), num_workers)
    with closing(batches):
        for _, batch in track(batches, len(steps), description) if description else batches:
            indices = batch.indices.numpy()  # without the padding of the last batch
            readable = ~np.isin(indices, [sample.index for sample in batch.unreadable])
            logits = np.zeros((0, 0), np.float32)
            if readable.any():
                with torch.inference_mode():  # not around the yield: the mode is the thread's
                    logits = _predict_batch(model, batch, device, average)[: len(indices)][readable]
            ranks.heartbeat()
            yield BatchPredictions(logits, indices[readable], batch.unreadable)


def merge_batches(batches: Sequence[BatchPredictions], split: Split) -> Predictions:
    """The predictions of all batches of a split, in its order.

    Raises UserError when no sample could be read, or a logit is not finite.
    """
    unreadable = sorted((sample for batch in batches for sample in batch.unreadable), key=lambda s: s.index)
    readable = [batch for batch in batches if len(batch.indices)]
    if not readable:
        first = unreadable[0]
        raise UserError(f"none of the {len(split):,} images can be read, {first.file} first: {first.reason}")
    indices = np.concatenate([batch.indices for batch in readable])
    order = np.argsort(indices)
    indices = indices[order]
    logits = np.concatenate([batch.logits for batch in readable])[order]
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        name = split.images.name(int(indices[~finite][0]))
        raise UserError(f"the network's logits are not finite, first for {name}")
    return Predictions(logits, split.labels[indices], indices, unreadable)


def _predict_batch(
    model: Callable[[Tensor], Tensor], batch: Batch | MultiCropBatch, device: torch.device, average: Average
) -> metrics.Logits:
    """The logits of each image of a batch, averaged over its views: (images, classes)."""
    if isinstance(batch, Batch):
        return model(batch.images.to(device)).float().cpu().numpy()
    rows = torch.cat([model(stack.to(device)).float().cpu() for stack in batch.stacks])
    return average_logits(rows.view(batch.num_images, -1, rows.shape[1]).numpy(), average)
