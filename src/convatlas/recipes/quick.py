"""A short modern schedule for a good classifier in minutes: one-cycle SGD with Nesterov momentum.

Measured on Fashion-MNIST over three seeds: docs/generated/results.md.
"""

from convatlas.data.transforms.augment import RandomCrop, RandomHorizontalFlip
from convatlas.data.transforms.normalize import ChannelMeanStd
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
    normalize=ChannelMeanStd(),
    augment=(RandomCrop(2), RandomHorizontalFlip()),
)

# For networks of photographs: random crops that are as large as a short training needs
QUICK_PHOTOS = QUICK.replace(
    batch=64, crop=RandomResizedCrop(area=(0.25, 1.0)), augment=(), eval_resize_ratio=8 / 7
)

QUICK_LENET5 = QUICK.replace(
    budget=Epochs(20),
    optimizer=SGD(lr=0.003, momentum=0.9, nesterov=True),
    loss=LENET5.loss,  # the paper's
    normalize=LENET5.normalize,
    augment=(),
    unstated=LENET5.unstated,
)

# For pretrained weights: a learning rate that changes them without replacing them
FINETUNE = QUICK.replace(
    name="finetune",
    budget=Epochs(3),
    optimizer=SGD(lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4, decay_all=False),
)
FINETUNE_PHOTOS = FINETUNE.replace(
    batch=64, crop=QUICK_PHOTOS.crop, augment=(), eval_resize_ratio=QUICK_PHOTOS.eval_resize_ratio
)
