"""What each probe measures. Weights, statistics, gradients and random numbers of the training stay as they
were."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convatlas.evaluation.predict import predict_rows
from convatlas.training.context import TrainContext
from convatlas.training.probes.records import (
    AnyProbe,
    GradientNorms,
    LogitGap,
    LossAlongGradient,
    ResponseDeviations,
    TrainingScores,
)

Values = dict[str, Any]


def measure_probes(ctx: TrainContext) -> list[Values]:
    """The lines of the log, without their position, in the order of the run's probes."""
    return [{"probe": type(probe).__name__, **_measure(probe, ctx)} for probe in ctx.run.probes]


def _measure(probe: AnyProbe, ctx: TrainContext) -> Values:
    match probe:
        case TrainingScores():
            return _training_scores(ctx, probe.images)
        case LogitGap():
            return {"gap": _logit_gap(ctx, probe.images)}
        case ResponseDeviations():
            return {"deviations": _response_deviations(ctx, probe.images)}
        case GradientNorms():
            return {"norms": _gradient_norms(ctx, probe.images)}
        case LossAlongGradient():
            return _loss_along_gradient(ctx, probe)


def _training_scores(ctx: TrainContext, count: int) -> Values:
    samples = ctx.train.samples
    split = samples.split.subset(_even_choice(ctx, count))
    source = ctx.task.eval_source(split, samples.preprocessing, min(ctx.run.evaluation_batch, len(split)))
    ctx.objective.eval()

    def logits(images: Tensor) -> Tensor:
        with ctx.runtime.turn():
            return ctx.objective.logits(images)

    with ctx.runtime.autocast():
        rows = predict_rows(
            lambda batch: ctx.task.predict(logits, batch, source.preprocessing, ctx.runtime.device), source
        )
    return dict(ctx.task.scores(ctx.task.predictions(rows, source.split)))


def _logit_gap(ctx: TrainContext, count: int) -> float:
    images, _ = _batch(ctx, count)
    ctx.objective.eval()
    with ctx.runtime.turn(), torch.inference_mode(), ctx.runtime.autocast():
        logits = ctx.objective.logits(images).double()
    classes = logits.shape[1]
    largest = logits.amax(1)
    others = (logits.sum(1) - largest) / (classes - 1)
    return float((largest - others).mean())


def _response_deviations(ctx: TrainContext, count: int) -> dict[str, float]:
    images, _ = _batch(ctx, count)
    model = ctx.objective.eval_model
    kinds: tuple[type[nn.Module], ...] = (nn.BatchNorm2d,)
    if not any(isinstance(module, kinds) for module in model.modules()):
        kinds = nn.Conv2d, nn.Linear
    deviations: dict[str, float] = {}
    handles = []
    for path, module in model.named_modules():
        if isinstance(module, kinds):

            def record(module: nn.Module, args: Any, output: Tensor, path: str = path) -> None:
                deviations[path] = float(output.double().std(correction=0))

            handles.append(module.register_forward_hook(record))
    ctx.objective.eval()
    try:
        with ctx.runtime.turn(), torch.inference_mode(), ctx.runtime.autocast():
            ctx.objective.logits(images)
    finally:
        for handle in handles:
            handle.remove()
    return deviations


def _gradient_norms(ctx: TrainContext, count: int) -> dict[str, float]:
    with _training_mode(ctx):
        _, gradients = _loss_and_gradients(ctx, _batch(ctx, count))
    return {
        path.removesuffix(".weight"): float(gradient.double().norm())
        for path, gradient in gradients.items()
        if path.endswith(".weight") and gradient.dim() > 1
    }


def _loss_along_gradient(ctx: TrainContext, probe: LossAlongGradient) -> Values:
    batch = _batch(ctx, probe.images)
    parameters = dict(ctx.objective.model.named_parameters())
    with _training_mode(ctx):
        loss, gradients = _loss_and_gradients(ctx, batch)
        norm = _norm(gradients)
        losses, distances = [], []
        weights = {path: parameters[path].detach().clone() for path in gradients}
        try:
            for step in probe.steps:
                with torch.no_grad():
                    for path, gradient in gradients.items():
                        parameters[path].copy_(weights[path] - step * gradient)
                there, others = _loss_and_gradients(ctx, batch)
                losses.append(there)
                difference = {path: others[path] - gradient for path, gradient in gradients.items()}
                distances.append(_norm(difference) / norm if norm else 0.0)
        finally:
            with torch.no_grad():
                for path, weight in weights.items():
                    parameters[path].copy_(weight)
    return {"loss": loss, "losses": losses, "gradient_distances": distances}


@contextmanager
def _training_mode(ctx: TrainContext) -> Iterator[None]:
    """Dropout is drawn from the run's seed alone; running statistics come back."""
    objective, device = ctx.objective, ctx.runtime.device
    objective.snapshot_statistics()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        objective.train()
        try:
            yield
        finally:
            objective.restore_statistics()


def _loss_and_gradients(ctx: TrainContext, batch: tuple[Tensor, Tensor]) -> tuple[float, dict[str, Tensor]]:
    """The loss and its gradient by the parameter's path in the model."""
    named = {path: p for path, p in ctx.objective.model.named_parameters() if p.requires_grad}
    torch.manual_seed(ctx.run.seed)  # inside fork_rng
    with ctx.runtime.turn():
        with ctx.runtime.autocast():
            loss = ctx.objective(*batch).loss
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    by_path = {path: grad for path, grad in zip(named, gradients, strict=True) if grad is not None}
    return float(loss.detach()), by_path


def _norm(gradients: Mapping[str, Tensor]) -> float:
    return float(sum(float(gradient.double().square().sum()) for gradient in gradients.values()) ** 0.5)


def _batch(ctx: TrainContext, count: int) -> tuple[Tensor, Tensor]:
    """Training images, evenly chosen, and their targets."""
    samples = ctx.train.samples.load_plain(_even_choice(ctx, count))
    device = ctx.runtime.device
    return samples.images.to(device), samples.targets.to(device)


def _even_choice(ctx: TrainContext, count: int) -> NDArray[np.int64]:
    """(n,): up to `count` indices of training images."""
    total = len(ctx.train.samples.split)
    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)
