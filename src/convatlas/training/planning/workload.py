"""The figures of a run that a plan is made of: how much there is to do, and what the network takes, read off a pass on meta tensors.

Bytes are bytes, images of one image's size as the network sees it.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from convatlas import analysis, models
from convatlas.data.transforms.normalize import Normalizer
from convatlas.errors import UserError
from convatlas.optim.optimizers import Optimizer
from convatlas.runtime.device import Precision
from convatlas.storage.records import Record
from convatlas.training.objective import Objective, freeze
from convatlas.training.run import Run


class LayerCost(Record, frozen=True):
    """The forward of one image through one layer: FLOPs, bytes of its weights, all bytes that its operators read and write."""

    flops: int
    weights: int
    moved: int


class ModelCost(Record, frozen=True, kw_only=True):
    """What is trained, at one precision. Parameters are kept, and their gradients averaged, in float32."""

    precision: Precision
    params: int
    trainable: int
    buffers: int  # bytes
    states: int  # tensors of a parameter's size that the optimiser keeps for each that is trained
    averaged: bool  # an average of the weights is kept, too
    macs: int  # of one forward, auxiliary heads included
    image_bytes: int  # one image as it arrives, uint8
    saved_activation_bytes: int  # activations of one image that autograd keeps for the backward pass
    weight_copy_bytes: int  # more that it keeps of a pass, however many images: of the weights, copies in bfloat16
    activation_gradient_bytes: int  # most that one image needs beside those in its backward pass: gradients of activations
    inference_bytes: int  # most activations of one image alive in evaluation
    layers: tuple[LayerCost, ...]


class Workload(Record, frozen=True, kw_only=True):
    """How much there is to do. `micro_batch` images at most go through a device together."""

    batch: int
    micro_batch: int
    evaluation_batch: int
    steps: int
    steps_per_epoch: int
    val: int  # images
    test: int


def workload(run: Run) -> Workload:
    counts, batch = run.content.counts, run.recipe.batch
    return Workload(
        batch=batch,
        micro_batch=min(run.recipe.micro_batch or batch, batch),
        evaluation_batch=run.evaluation_batch,
        steps=run.steps,
        steps_per_epoch=run.steps_per_epoch,
        val=counts.get("val", 0),
        test=counts.get("test", 0),
    )


def model_cost(run: Run, precision: Precision) -> ModelCost:
    """The run's network with its losses and heads, read at a precision. Raises UserError for one that cannot be read in training."""
    with torch.device("meta"):
        objective = untrained(run)
    (one, kept), (two, kept_of_two) = (_read(run, objective, precision, images) for images in (1, 2))
    numbers, buffers = list(objective.model.parameters()), objective.model.buffers()
    passing = alive = 0
    for row in one.rows:  # of the backward pass: what is kept up to a layer, and the gradients of its output and of its input
        alive += kept.get(row.path, 0)
        passing = max(passing, alive + 2 * row.activation_bytes)
    total, each = sum(kept.values()), sum(kept_of_two.values()) - sum(kept.values())
    return ModelCost(
        precision=precision,
        params=sum(p.numel() for p in numbers),
        trainable=sum(p.numel() for p in numbers if p.requires_grad),
        buffers=sum(b.nbytes for b in buffers),
        states=state_tensors(run.recipe.optimizer),
        averaged=run.recipe.average is not None,
        macs=one.macs,
        image_bytes=math.prod(run.content.preprocessing.shape),
        saved_activation_bytes=each,
        weight_copy_bytes=max(0, total - each),
        activation_gradient_bytes=max(0, passing - total),
        inference_bytes=two.inference_bytes - one.inference_bytes,
        layers=tuple(LayerCost(a.flops, max(0, 2 * a.bytes - b.bytes), a.bytes) for a, b in zip(one.rows, two.rows, strict=True)),
    )


def _read(run: Run, objective: Objective, precision: Precision, count: int) -> tuple[analysis.Report, dict[str, int]]:
    """The reading of a pass of so many images, and the bytes that autograd keeps of it, by module."""
    images = torch.empty(count, *run.content.preprocessing.shape, dtype=torch.uint8, device="meta")
    targets = torch.zeros(count, dtype=torch.int64, device="meta")
    cast: AbstractContextManager[object] = _Autocast() if precision == "bf16" else nullcontext()
    with cast:
        report = analysis.analyze(objective, (images, targets))
        kept = report.saved_bytes_by_module
    if kept is None:
        raise UserError(f"{run.model.name} cannot be read in training mode: there is no plan without its activations")
    return report, kept


class _Autocast(TorchFunctionMode):
    """torch.autocast to bfloat16, which does nothing to meta tensors: what multiplies gets, and keeps, copies of 2 bytes a number."""

    multiplies = frozenset({F.conv2d, F.conv_transpose2d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, torch.bmm})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.multiplies:
            args, kwargs = tree_map(_half, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _half(value: Any) -> Any:
    return value.to(torch.bfloat16) if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def state_tensors(optimizer: Optimizer) -> int:
    """Tensors of a parameter's size that it keeps for each: asked of one that has taken a step."""
    layer = nn.Linear(3, 5, bias=False)
    made = optimizer.build(layer)
    layer.weight.grad = torch.ones_like(layer.weight)
    made.step()
    return sum(value.numel() for value in made.state[layer.weight].values() if isinstance(value, Tensor)) // layer.weight.numel()


def untrained(run: Run) -> Objective:
    """As `train` makes it, with any first weights and pixels that are only scaled."""
    model, channels = models.build(run.model), run.content.preprocessing.channels
    standardiser = Normalizer(torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1))
    return Objective(model, standardiser, run.recipe.loss, run.recipe.auxiliary, frozen=freeze(run, model))
