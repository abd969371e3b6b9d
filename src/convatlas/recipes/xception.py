"""Xception. Chollet 2016, arXiv:1610.02357, sec. 4.2 to 4.4.

Run: convatlas train xception --data imagenet:PATH --recipe paper.
"""

from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.schedules import StepDecay
from convatlas.recipes.inception import INCEPTION_V3
from convatlas.recipes.recipe import Epochs
from convatlas.recipes.resnet import RESNET_SMALL

EPOCHS = 100
DEVICES = 60

XCEPTION = INCEPTION_V3.replace(
    name="xception",
    source="arXiv:1610.02357, sec. 4.2 to 4.4, on ImageNet",
    batch=DEVICES * 32,
    budget=Epochs(EPOCHS),
    optimizer=SGD(lr=0.045, momentum=0.9, weight_decay=1e-5),
    schedule=StepDecay(factor=0.94, num_drops=EPOCHS / 2),  # "decay of rate 0.94 every 2 epochs"
    loss=CrossEntropy(),
    auxiliary={},
    clip=None,
    unstated=(
        f"batch (ours: 32 on each of the {DEVICES} K80, which are synchronous as sec. 4.5 says)",
        f"budget (ours: {EPOCHS} epochs)",
        "ema: which kind of 'Polyak averaging' (ours: exponential, 0.9999)",
        "crop, augment, normalize (ours: Inception-v3's)",
    ),
)

XCEPTION_SMALL = RESNET_SMALL.replace(
    name="xception_small",
    source=XCEPTION.source,
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-5),
    reduced=RESNET_SMALL.reduced
    | {
        "image": "64x64; crops after padding, and flips, instead of Inception's distorted crops",
        "batch": f"128 on one device in place of 32 on each of {DEVICES}",
        "schedule": "2 epochs, one cycle, in place of a decay of 6 % every 2 epochs; no average",
    },
    unstated=(),
)
