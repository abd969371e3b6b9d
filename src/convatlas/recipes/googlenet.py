"""GoogLeNet. Szegedy et al. 2014, arXiv:1409.4842, sec. 5 and 6.

Run: convatlas train googlenet --data imagenet:PATH --recipe paper.
"""

from convatlas.data.transforms.augment import PhotometricDistort, RandomCrop, RandomHorizontalFlip
from convatlas.data.transforms.normalize import ChannelMean, ChannelMeanStd
from convatlas.data.transforms.random_crop import RandomResizedCrop
from convatlas.optim.ema import ExponentialMovingAverage
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.schedules import OneCycle, StepDecay
from convatlas.recipes.recipe import Epochs, Recipe

EPOCHS = 250

GOOGLENET = Recipe(
    name="googlenet",
    source="arXiv:1409.4842, sec. 5, 6",
    batch=32,
    budget=Epochs(EPOCHS),
    optimizer=SGD(lr=0.0015, momentum=0.9, weight_decay=2e-4),
    schedule=StepDecay(
        factor=0.96, num_drops=EPOCHS / 8
    ),  # "decreasing the learning rate by 4% every 8 epochs"
    loss=CrossEntropy(),
    auxiliary={"aux1": 0.3, "aux2": 0.3},
    normalize=ChannelMean(scale=1),
    crop=RandomResizedCrop(area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)),
    augment=(PhotometricDistort(),),
    eval_resize_ratio=256 / 224,
    ema=ExponentialMovingAverage(decay=0.9999),
    unstated=(
        "batch and learning rate (ours: those that arXiv:1502.03167, sec. 4.2, gives for the same network)",
        f"budget (ours: {EPOCHS} epochs)",
        "weight decay (ours: 2e-4)",
        "ema: which kind of 'Polyak averaging' (ours: exponential, as in the authors' later release)",
        "the scale of the pixels (ours: 0 to 1)",
    ),
    substituted={"asynchronous stochastic gradient descent": "synchronous: staleness depends on the cluster"},
)

GOOGLENET_SMALL = GOOGLENET.replace(
    name="googlenet_small",
    batch=128,
    budget=Epochs(2),
    optimizer=SGD(lr=0.05, momentum=0.9, weight_decay=2e-4),
    schedule=OneCycle(),
    normalize=ChannelMeanStd(),
    crop=None,
    augment=(RandomCrop(2), RandomHorizontalFlip()),
    ema=ExponentialMovingAverage(decay=0.98),
    init="he",
    network={"width": 0.25, "image_size": 32},
    reduced={
        "width": "a quarter of the channels",
        "image": "32x32; crops after padding, and flips, instead of crops of 8 to 100 % of the area with "
        "photometric distortions",
        "schedule": f"2 epochs, one cycle, in place of {EPOCHS} with a decay of 4 % every 8; the average "
        "covers about 50 steps, not 10,000",
        "first weights": "He's, so that 22 layers without batch norm learn from the start",
    },
)
