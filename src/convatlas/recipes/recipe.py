"""What a recipe is: a paper's methods section as data, complete, with what the paper leaves out and what we replace."""

import math
from typing import Literal, Self

from convatlas.data.transforms.augment import Augmentation
from convatlas.data.transforms.normalize import Normalization
from convatlas.data.transforms.random_crop import Crop
from convatlas.errors import UsageError
from convatlas.models import Argument
from convatlas.optim.clipping import Clipping
from convatlas.optim.constraints import FilterRadius
from convatlas.optim.ema import Averaging
from convatlas.optim.losses import Loss
from convatlas.optim.optimizers import Optimizer
from convatlas.optim.plateau import Plateau, Watch
from convatlas.optim.schedules import Schedule
from convatlas.storage.records import Record


class Epochs(Record, frozen=True, tag=True):
    """A budget in passes over the training images."""

    count: float

    def steps(self, steps_per_epoch: int) -> int:
        return math.ceil(self.count * steps_per_epoch)


class Iterations(Record, frozen=True, tag=True):
    """A budget in steps, whatever the size of the data set."""

    count: int

    def steps(self, steps_per_epoch: int) -> int:
        return self.count


BatchRule = Literal["linear", "square root"]


class Recipe(Record, frozen=True, kw_only=True):
    """How a network is trained. The learning rate is the optimiser's times the schedule's factor, times the plateau's.

    `batch` is global; of it `micro_batch` images go through the network together (None: all), whose gradients add up: batch norm sees
    them alone, as it saw the images of one device. `batch_rule` says how the rate follows another batch: linear (arXiv:1706.02677),
    or with its square root (arXiv:1404.5997, sec. 5); with None there is no other.

    `crop` draws what is seen of a photograph in training (None: what is seen in evaluation), `augment` what is done to it then.
    In evaluation a photograph's shorter side is brought to `margin` times the network's input, and the centre is taken.
    """

    name: str
    source: str
    batch: int
    budget: Epochs | Iterations
    optimizer: Optimizer
    schedule: Schedule
    loss: Loss
    standardise: Normalization
    plateau: Plateau | None = None  # watches the validation error, in percent
    crop: Crop | None = None
    augment: tuple[Augmentation, ...] = ()
    margin: float = 1.0
    auxiliary: dict[str, float] = {}  # the weights of the auxiliary heads' losses
    clip: Clipping | None = None
    constraint: FilterRadius | None = None  # after every step
    average: Averaging | None = None  # of the weights: what is evaluated and saved
    initialise: Literal["network's", "glorot", "he"] = "network's"  # first weights
    micro_batch: int | None = None
    batch_rule: BatchRule | None = "linear"
    network: dict[str, Argument] = {}  # the network's arguments, where the recipe is for other than the paper's
    reduced: dict[str, str] = {}  # what is smaller than in the paper, and why
    unstated: tuple[str, ...] = ()  # what the source leaves out; the value is ours
    substituted: dict[str, str] = {}  # what we replace, and why

    def rate(self, progress: float, watch: Watch) -> float:
        """The learning rate at this share of the steps, after what the plateau has seen."""
        rate = self.optimizer.lr * self.schedule(progress)
        return rate * self.plateau.rate(watch) if self.plateau else rate

    def at_batch(self, batch: int) -> Self:
        """The recipe for another global batch, its rate by the rule. Raises UsageError where there is no rule."""
        if batch == self.batch:
            return self
        if self.batch_rule is None:
            raise UsageError(
                f"the recipe {self.name} is for batches of {self.batch}, and no rule says what its learning rate is for {batch}: "
                f"leave out --batch, or set both with --set recipe.batch={batch} recipe.optimizer.lr=RATE"
            )
        ratio = batch / self.batch
        factor = ratio if self.batch_rule == "linear" else math.sqrt(ratio)
        return self.replace(batch=batch, optimizer=self.optimizer.replace(lr=self.optimizer.lr * factor))
