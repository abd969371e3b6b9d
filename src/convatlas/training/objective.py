"""The training objective: a model, its normalisation and its losses as one module."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from convatlas.data.transforms.normalize import Normalizer
from convatlas.layers.fused_batch_norm import fuse_batch_norm
from convatlas.layers.kernels import Kernels
from convatlas.layers.narrow_conv import replace_narrow_layers
from convatlas.layers.subsampled_conv import replace_strided_1x1_convs
from convatlas.models import Network
from convatlas.optim.ema import Averaging
from convatlas.optim.losses import Loss
from convatlas.runtime.runtime import Runtime
from convatlas.training.run import Run


class StepOutput(NamedTuple):
    loss: Tensor  # the scalar to minimise
    logits: Tensor  # (n, classes), of the main output


class Objective(nn.Module):
    """uint8 images (n, c, h, w) and targets, labels (n,) or as in `data.loading.batch`, -> the loss to
    minimise and the logits.

    `auxiliary`: the weight of each auxiliary head's loss; heads without one are not trained. `ema`: an
    average of the weights, which is then evaluated in place of the model. `frozen` modules keep weights and
    statistics, and have no dropout. `class_weights` (classes,): the mean loss is weighted by those of the
    targets, as torch's losses with a `weight`.
    """

    ema: AveragedModel | None
    class_weights: Tensor | None

    def __init__(
        self,
        model: Network,
        normalizer: Normalizer,
        loss: Loss,
        auxiliary: Mapping[str, float] | None = None,
        ema: Averaging | None = None,
        frozen: Iterable[nn.Module] = (),
        class_weights: Tensor | None = None,
    ):
        super().__init__()
        self.model = model
        self.normalizer = normalizer
        self.loss = loss
        self.auxiliary = dict(auxiliary or {})
        for head in set(model.heads) - set(
            self.auxiliary
        ):  # ranks wait for the gradients of all that requires one
            model.get_submodule(head).requires_grad_(False)
        self.ema = ema.build(model).requires_grad_(False) if ema else None
        self.frozen = tuple(frozen)  # a tuple, so that they are not registered twice
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._statistics: list[Tensor] = []

    @property
    def eval_model(self) -> nn.Module:
        """The network that is evaluated and saved."""
        return self.ema.module if self.ema is not None else self.model

    def forward(self, images: Tensor, targets: Tensor) -> StepOutput:
        images = self.normalizer(images)
        outputs = self.model.training_outputs(images) if self.auxiliary else {"logits": self.model(images)}
        total = self._mean_loss(outputs["logits"], targets)
        for head, weight in self.auxiliary.items():
            total = total + weight * self._mean_loss(outputs[head], targets)
        return StepOutput(total, outputs["logits"])

    def sample_weights(self, targets: Tensor) -> Tensor | None:
        """(n,): the weight of each sample in the mean loss of a batch; None for equal ones."""
        return None if self.class_weights is None else self.loss.sample_weights(targets, self.class_weights)

    def _mean_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        weights = self.sample_weights(targets)
        if weights is None:
            return self.loss(logits, targets).mean()
        return self.loss(logits, targets, self.class_weights).sum() / weights.sum()

    def logits(self, images: Tensor) -> Tensor:
        """The main output alone, for evaluation."""
        logits: Tensor = self.eval_model(self.normalizer(images))
        return logits

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def update_ema(self) -> None:
        """Update the average with the weights after a step."""
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    def weights(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint: the model's under `model.`, the average's under `ema.`."""
        model = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        ema = self.ema.state_dict() if self.ema is not None else {}
        return model | {f"ema.{name}": tensor for name, tensor in ema.items()}

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `weights` returned, out of a checkpoint's tensors."""
        for prefix, module in (("model.", self.model), ("ema.", self.ema)):
            if module is not None:
                state = {
                    name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)
                }
                module.load_state_dict(state)

    def snapshot_statistics(self) -> None:
        """Copy batch norm's running statistics, for `restore_statistics`."""
        self._statistics = [buffer.clone() for buffer in self._running_statistics()]

    def restore_statistics(self) -> None:
        """Undo a forward's change of the running statistics: the step was not taken."""
        for buffer, snapshot in zip(self._running_statistics(), self._statistics, strict=True):
            buffer.copy_(snapshot)

    def _running_statistics(self) -> list[Tensor]:
        names = ("running_mean", "running_var", "num_batches_tracked")
        return [buffer for name, buffer in self.model.named_buffers() if name.endswith(names)]


def prepare_for_training(objective: Objective, runtime: Runtime, kernels: Kernels | None) -> None:
    """Move the objective to the runtime's device, with the layers that train fastest, or at all, there."""
    runtime.to_device(objective)
    fuse_batch_norm(objective, kernels)
    replace_narrow_layers(objective, kernels)
    replace_strided_1x1_convs(objective, runtime.device)


def freeze(run: Run, model: Network) -> list[nn.Module]:
    """Freeze the run's frozen modules; returns all that stay in evaluation mode."""
    frozen: list[nn.Module] = [model.get_submodule(path).requires_grad_(False) for path in run.frozen]
    if run.frozen_statistics:
        frozen += [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return frozen


def class_weights(run: Run) -> Tensor | None:
    """(classes,) the weights of a complete run's classes in their order; None where it has none."""
    weights = run.recipe.class_weights
    if isinstance(weights, str):
        return None
    return torch.tensor([weights[name] for name in run.content.classes])
