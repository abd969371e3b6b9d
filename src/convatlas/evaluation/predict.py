"""The predictions of a network on a split: one fixed batch shape, every sample once."""

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

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
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.progress import track


class Predictions(NamedTuple):
    """What a network says of a split, in the split's order, without the samples that cannot be read."""

    logits: metrics.Logits  # (n, classes), float32
    labels: metrics.Labels  # (n,)
    indices: metrics.Labels  # (n,): places in the split
    unreadable: list[UnreadableSample]


def predict_split(
    model: Callable[[Tensor], Tensor],
    source: EvalBatches | MultiCropBatches,
    device: torch.device,
    workers: int = 0,
    average: Average = "probabilities",
    description: str = "",
    ranks: Ranks = SINGLE_PROCESS,
) -> Predictions:
    """`model` takes uint8 images of one fixed batch shape (whole pictures: of any); a picture's windows are averaged. Each rank asks it
    its share of the batches, and all get all answers, in the split's order. `shown` is what to call this work while it is long. Raises
    UserError when nothing of the split can be read, or an answer is not finite."""
    logits, indices, unread = [], [], []
    with torch.inference_mode():
        work = iterate_batches(source, 0, source.steps, workers)
        for _, batch in track(work, source.steps, description) if description else work:
            inside = batch.indices.numpy()
            usable = ~np.isin(inside, [u.index for u in batch.unreadable])
            if usable.any():
                logits.append(_logits(model, batch, device, average)[: len(inside)][usable])
            indices.append(inside[usable])
            unread += batch.unreadable
            ranks.heartbeat()
    parts = ranks.all_gather((logits, indices, unread))
    logits, indices, unread = (list(chain(*part)) for part in zip(*parts, strict=True))
    found = np.concatenate(indices)
    unread.sort(key=lambda one: one.index)
    if not len(found):
        raise UserError(f"none of the {len(source.split):,} images can be read, {unread[0].file} first: {unread[0].reason}")
    order = np.argsort(found)
    found, answered = found[order], np.concatenate(logits)[order]
    if not np.isfinite(answered).all():
        raise UserError(
            f"the network answers with values that are not finite, first for {source.split.images.name(_first_non_finite(answered, found))}"
        )
    return Predictions(answered, source.split.labels[found], found, unread)


def _logits(model: Callable[[Tensor], Tensor], batch: Batch | MultiCropBatch, device: torch.device, average: Average) -> metrics.Logits:
    """(pictures, classes): of each what its windows say together."""
    if isinstance(batch, Batch):
        return model(batch.images.to(device)).float().cpu().numpy()
    rows = torch.cat([model(stack.to(device)).float().cpu() for stack in batch.stacks])
    return average_logits(rows.view(batch.pictures, -1, rows.shape[1]).numpy(), average)


def _first_non_finite(logits: metrics.Logits, indices: metrics.Labels) -> int:
    return int(indices[~np.isfinite(logits).all(axis=1)][0])
