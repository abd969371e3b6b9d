"""What is trained: a model together with its standardisation and loss. This module owns the losses and is what gets parallelised."""

from typing import NamedTuple

from torch import Tensor, nn

from convatlas.data.preprocessing import Standardiser
from convatlas.models import Network
from convatlas.optim.losses import Loss


class Outcome(NamedTuple):
    total: Tensor  # the scalar to be minimised
    logits: Tensor  # (n, classes), of the main output


class Objective(nn.Module):
    """uint8 images (n, c, h, w) and targets (n,) -> the loss to minimise and the logits."""

    def __init__(self, model: Network, standardiser: Standardiser, loss: Loss):
        super().__init__()
        self.model, self.standardiser, self.loss = model, standardiser, loss
        self._before: list[Tensor] = []

    def forward(self, images: Tensor, targets: Tensor) -> Outcome:
        outputs = self.model.training_outputs(self.standardiser(images))
        return Outcome(self.loss(outputs["logits"], targets).mean(), outputs["logits"])

    def remember(self) -> None:
        """Keep batch norm's running statistics as they are, for `take_back`."""
        self._before = [buffer.clone() for buffer in self._running()]

    def take_back(self) -> None:
        """Undo what a forward did to the running statistics since `remember`: with the step not taken, the model is as before."""
        for buffer, before in zip(self._running(), self._before, strict=True):
            buffer.copy_(before)

    def _running(self) -> list[Tensor]:
        names = ("running_mean", "running_var", "num_batches_tracked")
        return [buffer for name, buffer in self.model.named_buffers() if name.endswith(names)]

    def logits(self, images: Tensor) -> Tensor:
        """The main output alone, for evaluation."""
        logits: Tensor = self.model(self.standardiser(images))
        return logits
