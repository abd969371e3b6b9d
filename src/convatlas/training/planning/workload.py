"""The figures of a run that a plan needs: the amount of work, and the network's cost, read off a pass on meta
tensors.

Bytes are bytes; images have the network's input size.
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
from convatlas.models import Network
from convatlas.optim.optimizers import Optimizer
from convatlas.runtime.device import Precision
from convatlas.storage.records import Record
from convatlas.training.objective import Objective, freeze
from convatlas.training.run import Run
from convatlas.training.tasks import task_of


class LayerCost(Record, frozen=True):
    """One image through one layer: FLOPs, bytes of weights, all bytes read and written."""

    flops: int
    weights: int
    moved: int


class ModelCost(Record, frozen=True, kw_only=True):
    """What is trained, at one precision. Parameters are stored, and their gradients averaged, in float32."""

    precision: Precision
    params: int
    trainable: int
    buffers: int  # bytes
    states: int  # tensors of a parameter's size that the optimiser stores for each trainable one
    averaged: bool  # whether an average of the weights is stored too
    macs: int  # of one forward, auxiliary heads included
    image_bytes: int  # of one uint8 image
    saved_activation_bytes: int  # that autograd saves of one image for the backward pass
    weight_copy_bytes: int  # saved for a pass of any number of images: copies of the weights in bfloat16
    activation_gradient_bytes: int  # at most, of one image in its backward pass, beside the saved activations
    inference_bytes: int  # most activations of one image alive in evaluation
    layers: tuple[LayerCost, ...]


class Workload(Record, frozen=True, kw_only=True):
    """The amount of work. At most `micro_batch` images go through a device together."""

    batch: int
    micro_batch: int
    evaluation_batch: int
    steps: int
    steps_per_epoch: int
    validate_every: int  # steps
    val: int  # images
    test: int


def workload(run: Run) -> Workload:
    counts = run.content.counts
    batch = run.recipe.batch
    return Workload(
        batch=batch,
        micro_batch=min(run.recipe.micro_batch or batch, batch),
        evaluation_batch=run.evaluation_batch,
        steps=run.steps,
        steps_per_epoch=run.steps_per_epoch,
        validate_every=run.steps_per_validation,
        val=counts.get("val", 0),
        test=counts.get("test", 0),
    )


def model_cost(run: Run, precision: Precision, network: Network | None = None) -> ModelCost:
    """The cost of the run's network with its losses and heads. `network`: the same on meta tensors, where
    there is one.

    Raises UserError for a network that cannot be analysed in training mode.
    """
    if network is None:
        with torch.device("meta"):
            network = models.build(run.model)
    with torch.device("meta"):
        objective = untrained_objective(run, network)
    one, saved = _analyze(run, objective, precision, 1)
    two, saved_of_two = _analyze(run, objective, precision, 2)
    parameters = list(objective.model.parameters())
    saved_bytes = sum(saved.values())
    saved_per_image = sum(saved_of_two.values()) - saved_bytes
    layers = [
        LayerCost(a.flops, max(0, 2 * a.bytes - b.bytes), a.bytes)
        for a, b in zip(one.rows, two.rows, strict=True)
    ]
    return ModelCost(
        precision=precision,
        params=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        buffers=sum(b.nbytes for b in objective.model.buffers()),
        states=state_tensors(run.recipe.optimizer),
        averaged=run.recipe.ema is not None,
        macs=one.macs,
        image_bytes=math.prod(run.content.preprocessing.shape),
        saved_activation_bytes=saved_per_image,
        weight_copy_bytes=max(0, saved_bytes - saved_per_image),
        activation_gradient_bytes=max(0, _peak_backward_bytes(one, saved) - saved_bytes),
        inference_bytes=two.inference_bytes - one.inference_bytes,
        layers=tuple(layers),
    )


def _peak_backward_bytes(report: analysis.Report, saved: dict[str, int]) -> int:
    """At each layer: what is saved up to it, and the gradients of its output and of its input."""
    peak = 0
    saved_so_far = 0
    for row in report.rows:
        saved_so_far += saved.get(row.path, 0)
        peak = max(peak, saved_so_far + 2 * row.activation_bytes)
    return peak


def _analyze(
    run: Run,
    objective: Objective,
    precision: Precision,
    images: int,
) -> tuple[analysis.Report, dict[str, int]]:
    """The analysis of a pass of `images` images, and the bytes that autograd saves of it, by module."""
    inputs = torch.empty(images, *run.content.preprocessing.shape, dtype=torch.uint8, device="meta")
    content = run.content
    targets = task_of(run).example_targets(images, len(content.classes), content.preprocessing).to("meta")
    autocast: AbstractContextManager[object] = _MetaAutocast() if precision == "bf16" else nullcontext()
    with autocast:
        report = analysis.analyze(objective, (inputs, targets))
        saved = report.saved_bytes_by_module
    if saved is None:
        raise UserError(
            f"{run.model.name} cannot be analysed in training mode: there is no plan without its activations"
        )
    return report, saved


class _MetaAutocast(TorchFunctionMode):
    """torch.autocast to bfloat16 for meta tensors: products get, and save, 2-byte copies."""

    products = frozenset(
        {
            F.conv2d,
            F.conv_transpose2d,
            F.linear,
            torch.matmul,
            Tensor.matmul,
            Tensor.__matmul__,
            torch.mm,
            torch.bmm,
        }
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.products:
            args, kwargs = tree_map(_to_bfloat16, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _to_bfloat16(value: Any) -> Any:
    return value.to(torch.bfloat16) if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def state_tensors(optimizer: Optimizer) -> int:
    """Parameter-sized tensors of the optimiser for each parameter, counted after a step."""
    layer = nn.Linear(3, 5, bias=False)
    built = optimizer.build(layer)
    layer.weight.grad = torch.ones_like(layer.weight)
    built.step()
    state = built.state[layer.weight].values()
    return sum(value.numel() for value in state if isinstance(value, Tensor)) // layer.weight.numel()


def untrained_objective(run: Run, network: Network | None = None) -> Objective:
    """As `train` builds it, with any first weights, and pixels that are only scaled."""
    model = models.build(run.model) if network is None else network
    channels = run.content.preprocessing.channels
    normalizer = Normalizer(torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1))
    return Objective(model, normalizer, run.recipe.loss, run.recipe.auxiliary, frozen=freeze(run, model))
