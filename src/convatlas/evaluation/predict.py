"""The prediction loop: a network on every sample of a split once, in batches of one fixed shape."""

from collections.abc import Callable
from contextlib import closing
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from convatlas.data.loading.batch import Batch
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.loading.multi_crop_batches import MultiCropBatch, MultiCropBatches
from convatlas.data.transforms.preprocessing import UnreadableSample
from convatlas.errors import UserError
from convatlas.evaluation import metrics
from convatlas.evaluation.ensemble import Average, average_logits
from convatlas.evaluation.predictions import Predictions
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.progress import track


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

    `model` maps uint8 images (n, c, h, w) to logits (n, classes); the shape is the same for every batch,
    except for full images (`FullImage`). The logits of an image's views are averaged by `average`. Each rank
    predicts its share of the batches, and every rank gets all predictions. With a `description`, progress is
    shown under it. `after_batch` is called with the number of each batch that this rank has predicted.

    Raises UserError when no sample of the split can be read, or a logit is not finite.
    """
    logits: list[metrics.Logits] = []
    indices: list[metrics.Labels] = []
    unreadable: list[UnreadableSample] = []
    batches = iterate_batches(source, 0, source.steps, num_workers)
    with closing(batches), torch.inference_mode():
        for number, batch in track(batches, source.steps, description) if description else batches:
            batch_indices = batch.indices.numpy()  # without the padding of the last batch
            readable = ~np.isin(batch_indices, [sample.index for sample in batch.unreadable])
            if readable.any():
                logits.append(_predict_batch(model, batch, device, average)[: len(batch_indices)][readable])
            indices.append(batch_indices[readable])
            unreadable += batch.unreadable
            ranks.heartbeat()
            if after_batch is not None:
                after_batch(number)
    shares = ranks.all_gather((logits, indices, unreadable))
    logits, indices, unreadable = (list(chain(*lists)) for lists in zip(*shares, strict=True))
    unreadable.sort(key=lambda sample: sample.index)
    all_indices = np.concatenate(indices)
    if not len(all_indices):
        first = unreadable[0]
        raise UserError(
            f"none of the {len(source.split):,} images can be read, {first.file} first: {first.reason}"
        )
    order = np.argsort(all_indices)
    all_indices = all_indices[order]
    all_logits = np.concatenate(logits)[order]
    finite = np.isfinite(all_logits).all(axis=1)
    if not finite.all():
        name = source.split.images.name(int(all_indices[~finite][0]))
        raise UserError(f"the network's logits are not finite, first for {name}")
    return Predictions(all_logits, source.split.labels[all_indices], all_indices, unreadable)


def _predict_batch(
    model: Callable[[Tensor], Tensor], batch: Batch | MultiCropBatch, device: torch.device, average: Average
) -> metrics.Logits:
    """The logits of each image of a batch, averaged over its views: (images, classes)."""
    if isinstance(batch, Batch):
        return model(batch.images.to(device)).float().cpu().numpy()
    rows = torch.cat([model(stack.to(device)).float().cpu() for stack in batch.stacks])
    return average_logits(rows.view(batch.num_images, -1, rows.shape[1]).numpy(), average)
