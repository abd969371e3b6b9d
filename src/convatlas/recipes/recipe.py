"""What a recipe is: a paper's methods section as data, complete, with what the paper leaves out and what we replace."""

import math

from convatlas.data.augment import Augmentation
from convatlas.data.crops import Crop
from convatlas.data.preprocessing import Standardisation
from convatlas.optim.losses import Loss
from convatlas.optim.optimizers import Optimizer
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


class Recipe(Record, frozen=True, kw_only=True):
    """How a network is trained. `batch` is global. The schedule's factor times the optimiser's rate is the learning rate.

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
    standardise: Standardisation
    crop: Crop | None = None
    augment: tuple[Augmentation, ...] = ()
    margin: float = 1.0
    clip_norm: float | None = None
    unstated: tuple[str, ...] = ()  # what the source leaves out; the value is ours
    substituted: dict[str, str] = {}  # what we replace, and why
