"""The record of a recipe: a paper's methods section as data.

It is complete: it lists the values that the paper leaves out and the methods that we replace.
"""

import math
from typing import Literal, Self

from convatlas.data.loading.epoch_order import Sampling
from convatlas.data.transforms.augment import Augmentation
from convatlas.data.transforms.normalize import Normalization
from convatlas.data.transforms.random_crop import Crop
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.errors import UsageError
from convatlas.models import Argument
from convatlas.optim.clipping import Clipping
from convatlas.optim.constraints import FilterRadius
from convatlas.optim.ema import Averaging
from convatlas.optim.losses import Loss
from convatlas.optim.optimizers import Optimizer
from convatlas.optim.plateau import PlateauState, ReduceOnPlateau
from convatlas.optim.schedules import Schedule
from convatlas.storage.records import Record


class Epochs(Record, frozen=True, tag=True):
    """A budget in passes over the training images; of a small set more, until there are `min_steps`."""

    count: float
    min_steps: int = 0

    def steps(self, steps_per_epoch: int) -> int:
        return max(math.ceil(self.count * steps_per_epoch), self.min_steps)


class Iterations(Record, frozen=True, tag=True):
    """A budget in steps, whatever the size of the data set."""

    count: int

    def steps(self, steps_per_epoch: int) -> int:
        return self.count


BatchRule = Literal["linear", "sqrt"]
ClassWeights = Literal["none", "balanced"] | dict[str, float]


class Recipe(Record, frozen=True, kw_only=True):
    """The training of a network.

    The learning rate is the optimiser's, times the schedule's factor, times the plateau's.

    `batch` is the global batch. The network takes `micro_batch` images at a time (None: all of the batch) and
    the gradients of the micro-batches are summed; the statistics of batch norm are those of one micro-batch,
    as in the paper they were those of one device. `batch_rule` scales the learning rate for other batches:
    linearly (arXiv:1706.02677) or with the square root (arXiv:1404.5997, sec. 5); with None no other batch is
    possible.

    `crop` draws the crop of a photograph in training (None: the crop of evaluation), or the tile of an image
    whose pixels are labelled, and `augment` transforms it. In evaluation the shorter side of a photograph is
    resized to `eval_resize_ratio` times the network's input, and the centre is cropped.

    `class_weights` weight the loss of a sample by its class: "balanced" in inverse proportion to the class's
    training images, or a weight for each class by name (1 for those left out). `sampling` "balanced" draws
    equally many training images of every class. `adaptive` are the fields that follow the size of the data
    set, as `recipes/quick.py` says; a complete run has none.
    """

    name: str
    source: str
    batch: int
    budget: Epochs | Iterations
    optimizer: Optimizer
    schedule: Schedule
    loss: Loss
    normalize: Normalization
    plateau: ReduceOnPlateau | None = None  # watches the validation error, in percent
    crop: Crop | RandomTile | None = None
    augment: tuple[Augmentation, ...] = ()
    eval_resize_ratio: float = 1.0
    auxiliary: dict[str, float] = {}  # the weights of the auxiliary heads' losses
    clip: Clipping | None = None
    constraint: FilterRadius | None = None  # after every step
    ema: Averaging | None = None  # the average of the weights, which is evaluated and saved
    init: Literal["default", "glorot", "he"] = "default"  # default: the network's own
    frozen: tuple[str, ...] = ()  # modules that are not trained, where the network has them
    micro_batch: int | None = None
    batch_rule: BatchRule | None = "linear"
    class_weights: ClassWeights = "none"
    sampling: Sampling = "uniform"
    adaptive: tuple[str, ...] = ()
    network: dict[str, Argument] = {}  # the network's arguments where they differ from the paper's
    reduced: dict[str, str] = {}  # settings that are smaller than in the paper, and why
    unstated: tuple[str, ...] = ()  # settings that the source leaves out; the values are ours
    substituted: dict[str, str] = {}  # methods of the paper that we replace, and why

    def lr_at(self, progress: float, plateau_state: PlateauState) -> float:
        """The learning rate at this progress (0 to 1 over the steps) and in this state of the plateau."""
        lr = self.optimizer.lr * self.schedule(progress)
        return lr * self.plateau.lr_factor(plateau_state) if self.plateau else lr

    def at_batch(self, batch: int) -> Self:
        """The recipe for a global batch, with the learning rate scaled by the rule; the batch is not adaptive
        any more.

        Raises UsageError for a recipe without a rule.
        """
        recipe = self.without_adapting("batch")
        if batch == self.batch:
            return recipe
        if self.batch_rule is None:
            raise UsageError(
                f"the recipe {self.name} is for batches of {self.batch}, and no rule scales its learning "
                f"rate to {batch}: leave out --batch, or set both with --set recipe.batch={batch} "
                "recipe.optimizer.lr=RATE"
            )
        ratio = batch / self.batch
        factor = ratio if self.batch_rule == "linear" else math.sqrt(ratio)
        return recipe.replace(batch=batch, optimizer=self.optimizer.replace(lr=self.optimizer.lr * factor))

    def without_adapting(self, *fields: str) -> Self:
        """The recipe whose `fields` stay as they are, whatever the size of the data set."""
        return self.replace(adaptive=tuple(name for name in self.adaptive if name not in fields))
