"""A modern short schedule for people who want a good classifier in minutes: one-cycle SGD with Nesterov momentum.

Measured on Fashion-MNIST over three seeds: docs/generated/results.md.
"""

from convatlas.data.transforms.augment import Flip, PadCrop
from convatlas.data.transforms.normalize import ChannelStatistics
from convatlas.data.transforms.random_crop import RandomResizedCrop
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.schedules import OneCycle
from convatlas.recipes.lenet5 import LENET5
from convatlas.recipes.recipe import Epochs, Recipe

QUICK = Recipe(
    name="quick",
    source="arXiv:1708.07120 (one-cycle), settings ours",
    batch=128,
    budget=Epochs(6),
    optimizer=SGD(lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_all=False),
    schedule=OneCycle(),
    loss=CrossEntropy(),
    standardise=ChannelStatistics(),
    augment=(PadCrop(2), Flip()),
)

# For networks of large images, which are photographs: a part of each, as wide a part as a short training can use
QUICK_PHOTOS = QUICK.replace(batch=64, crop=RandomResizedCrop(area=(0.25, 1.0)), augment=(), margin=8 / 7)

QUICK_LENET5 = QUICK.replace(
    budget=Epochs(20),
    optimizer=SGD(lr=0.003, momentum=0.9, nesterov=True),
    loss=LENET5.loss,  # the paper's
    standardise=LENET5.standardise,
    augment=(),
    unstated=LENET5.unstated,
)

# For weights that are there already: a rate at which they are changed, not replaced
FINETUNE = QUICK.replace(
    name="finetune", budget=Epochs(3), optimizer=SGD(lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4, decay_all=False)
)
FINETUNE_PHOTOS = FINETUNE.replace(batch=64, crop=QUICK_PHOTOS.crop, augment=(), margin=QUICK_PHOTOS.margin)
