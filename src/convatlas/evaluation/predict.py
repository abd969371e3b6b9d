"""The prediction loop: a network on every sample of a split once."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data import Split
from convatlas.data.loading.batch import Batch
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.loading.multi_crop_batches import MultiCropBatch, MultiCropBatches
from convatlas.data.loading.selected_steps import SelectedSteps
from convatlas.data.task import EvalSource, PredictedRows
from convatlas.data.transforms.preprocessing import UnreadableSample
from convatlas.errors import UserError
from convatlas.evaluation.ensemble import Average, average_logits
from convatlas.evaluation.predictions import Predictions
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.progress import track

Rows = NDArray[Any]  # (images, ...): what is kept of the predictions on a batch
PredictBatch = Callable[[Any], Rows]  # the rows of a batch, whose last ones may belong to its padding


class BatchPredictions(NamedTuple):
    """The predictions of some samples of a split."""

    rows: Rows  # (n, ...)
    indices: NDArray[np.int64]  # (n,): in the split, without those of unreadable samples
    unreadable: list[UnreadableSample]


def predict_split(
    model: Callable[[Tensor], Tensor],
    source: EvalBatches | MultiCropBatches,
    device: torch.device,
    num_workers: int = 0,
    average: Average = "probabilities",
    ranks: Ranks = SINGLE_PROCESS,
) -> Predictions:
    """The logits of every sample of `source` that can be read, in the split's order. The arguments are those
    of `predict_rows` and `logit_rows`. Raises UserError as `predict_rows`."""
    rows = predict_rows(logit_rows(model, device, average), source, num_workers, ranks)
    return Predictions(rows.values, source.split.labels[rows.indices], rows.indices, rows.unreadable)


def predict_rows(
    predict: PredictBatch,
    source: EvalSource | MultiCropBatches,
    num_workers: int = 0,
    ranks: Ranks = SINGLE_PROCESS,
    after_batch: Callable[[int], None] | None = None,
) -> PredictedRows:
    """Predict every sample of `source` that can be read, in the split's order.

    `source` holds this rank's share of the batches, and every rank gets all predictions. `after_batch` is
    called with the number of each batch that this rank has predicted. Raises UserError when no sample of the
    split can be read, or a number is not finite.
    """
    steps = range(source.steps)
    predicted: list[BatchPredictions] = []
    with closing(predict_batches(predict, source, steps, num_workers, "", ranks)) as batches:
        for number, batch in enumerate(batches):
            predicted.append(batch)
            if after_batch is not None:
                after_batch(number)
    return merge_batches(list(chain(*ranks.all_gather(predicted))), source.split)


def predict_batches(
    predict: PredictBatch,
    source: EvalSource | MultiCropBatches,
    steps: Sequence[int],
    num_workers: int = 0,
    description: str = "",
    ranks: Ranks = SINGLE_PROCESS,
) -> Generator[BatchPredictions]:
    """Yield the predictions of the given steps of `source`. Close it to end the workers that load the data.

    With a `description`, progress is shown under it.
    """
    batches = iterate_batches(SelectedSteps(source, steps), 0, len(steps), num_workers)
    with closing(batches):
        for _, batch in track(batches, len(steps), description) if description else batches:
            indices = batch.indices.numpy()  # without the padding of the last batch
            readable = ~np.isin(indices, [sample.index for sample in batch.unreadable])
            rows: Rows = np.zeros((0, 0), np.float32)
            if readable.any():
                with torch.inference_mode():  # not around the yield: the mode is the thread's
                    rows = predict(batch)[: len(indices)][readable]
            ranks.heartbeat()
            yield BatchPredictions(rows, indices[readable], batch.unreadable)


def merge_batches(batches: Sequence[BatchPredictions], split: Split) -> PredictedRows:
    """The predictions of all batches of a split, in its order.

    Raises UserError when no sample could be read, or a number is not finite.
    """
    unreadable = sorted((sample for batch in batches for sample in batch.unreadable), key=lambda s: s.index)
    readable = [batch for batch in batches if len(batch.indices)]
    if not readable:
        first = unreadable[0]
        raise UserError(f"none of the {len(split):,} images can be read, {first.file} first: {first.reason}")
    indices = np.concatenate([batch.indices for batch in readable])
    order = np.argsort(indices)
    indices = indices[order]
    rows = np.concatenate([batch.rows for batch in readable])[order]
    finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
    if not finite.all():
        name = split.images.name(int(indices[~finite][0]))
        raise UserError(f"the network's logits are not finite, first for {name}")
    return PredictedRows(rows, indices, unreadable)


def logit_rows(
    model: Callable[[Tensor], Tensor], device: torch.device, average: Average = "probabilities"
) -> PredictBatch:
    """The logits of each image of a batch, averaged over its views: (images, classes).

    `model` maps uint8 images (n, c, h, w) to logits (n, classes); the shape is the same for every batch,
    except for full images (`FullImage`).
    """

    def predict(batch: Batch | MultiCropBatch) -> Rows:
        if isinstance(batch, Batch):
            return model(batch.images.to(device)).float().cpu().numpy()
        rows = torch.cat([model(stack.to(device)).float().cpu() for stack in batch.stacks])
        return average_logits(rows.view(batch.num_images, -1, rows.shape[1]).numpy(), average)

    return predict
