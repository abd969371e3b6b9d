"""What is trained: a model together with its standardisation and losses. This module owns the losses and is what gets parallelised."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from convatlas.data.transforms.normalize import Normalizer
from convatlas.models import Network
from convatlas.optim.ema import Averaging
from convatlas.optim.losses import Loss
from convatlas.training.run import Run


class StepOutput(NamedTuple):
    total: Tensor  # the scalar to be minimised
    logits: Tensor  # (n, classes), of the main output


class Objective(nn.Module):
    """uint8 images (n, c, h, w) and targets (n,) -> the loss to minimise and the logits.

    `auxiliary` weights the loss of each auxiliary head that is trained; others keep their weights. What is evaluated is the
    average of the weights where there is one. `frozen` modules neither learn nor drop anything nor change their statistics.
    """

    average: AveragedModel | None

    def __init__(
        self,
        model: Network,
        normalizer: Normalizer,
        loss: Loss,
        auxiliary: Mapping[str, float] | None = None,
        average: Averaging | None = None,
        frozen: Iterable[nn.Module] = (),
    ):
        super().__init__()
        self.model, self.normalizer, self.loss, self.auxiliary = model, normalizer, loss, dict(auxiliary or {})
        for head in set(model.heads) - set(self.auxiliary):  # ranks wait for the gradients of what can have one
            model.get_submodule(head).requires_grad_(False)
        self.average = average.build(model).requires_grad_(False) if average else None
        self.frozen = tuple(frozen)  # a tuple, so that they are not registered twice
        self._before: list[Tensor] = []

    @property
    def eval_model(self) -> nn.Module:
        """The network that is evaluated and saved."""
        return self.average.module if self.average is not None else self.model

    def forward(self, images: Tensor, targets: Tensor) -> StepOutput:
        images = self.normalizer(images)
        outputs = self.model.training_outputs(images) if self.auxiliary else {"logits": self.model(images)}
        total = self.loss(outputs["logits"], targets).mean()
        for head, weight in self.auxiliary.items():
            total = total + weight * self.loss(outputs[head], targets).mean()
        return StepOutput(total, outputs["logits"])

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def update_ema(self) -> None:
        """Let the average take the weights after a step into account."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def weights(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: the model's tensors under `model.`, the average's under `average.`."""
        own = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        average = self.average.state_dict() if self.average is not None else {}
        return own | {f"average.{name}": tensor for name, tensor in average.items()}

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `weights` gave, out of a checkpoint's tensors."""
        for prefix, module in (("model.", self.model), ("average.", self.average)):
            if module is not None:
                module.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})

    def snapshot_statistics(self) -> None:
        """Keep batch norm's running statistics as they are, for `take_back`."""
        self._before = [buffer.clone() for buffer in self._running()]

    def restore_statistics(self) -> None:
        """Undo what a forward did to the running statistics since `remember`: with the step not taken, the model is as before."""
        for buffer, before in zip(self._running(), self._before, strict=True):
            buffer.copy_(before)

    def _running(self) -> list[Tensor]:
        names = ("running_mean", "running_var", "num_batches_tracked")
        return [buffer for name, buffer in self.model.named_buffers() if name.endswith(names)]

    def logits(self, images: Tensor) -> Tensor:
        """The main output alone, for evaluation."""
        logits: Tensor = self.eval_model(self.normalizer(images))
        return logits


def freeze(run: Run, model: Network) -> list[nn.Module]:
    """Let the run's frozen parts learn nothing; returns all that stays as it is, batch norm's statistics included."""
    still: list[nn.Module] = [model.get_submodule(path).requires_grad_(False) for path in run.frozen]
    if run.frozen_statistics:
        still += [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return still
