"""GoogLeNet. Szegedy et al. 2014, arXiv:1409.4842, sec. 5 and 6. Run: convatlas train googlenet --data imagenet:PATH --recipe paper."""

from convatlas.data.transforms.augment import Flip, PadCrop, Photometric
from convatlas.data.transforms.normalize import ChannelMean, ChannelStatistics
from convatlas.data.transforms.random_crop import RandomResizedCrop
from convatlas.optim.ema import ExponentialAverage
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.schedules import Exponential, OneCycle
from convatlas.recipes.recipe import Epochs, Recipe

EPOCHS = 250

GOOGLENET = Recipe(
    name="googlenet",
    source="arXiv:1409.4842, sec. 5, 6",
    batch=32,
    budget=Epochs(EPOCHS),
    optimizer=SGD(lr=0.0015, momentum=0.9, weight_decay=2e-4),
    schedule=Exponential(factor=0.96, drops=EPOCHS / 8),  # "decreasing the learning rate by 4% every 8 epochs"
    loss=CrossEntropy(),
    auxiliary={"aux1": 0.3, "aux2": 0.3},
    standardise=ChannelMean(scale=1),
    crop=RandomResizedCrop(area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)),
    augment=(Photometric(),),
    margin=256 / 224,
    average=ExponentialAverage(decay=0.9999),
    unstated=(
        "batch and learning rate (ours: those that arXiv:1502.03167, sec. 4.2, gives for the same network)",
        f"budget (ours: {EPOCHS} epochs)",
        "weight decay (ours: 2e-4)",
        "average: 'Polyak averaging' without its kind (ours: exponential, as in the authors' later release)",
        "the scale of the pixels (ours: 0 to 1)",
    ),
    substituted={"asynchronous stochastic gradient descent": "synchronous: which gradients are stale hangs on the cluster"},
)

GOOGLENET_SMALL = GOOGLENET.replace(
    name="googlenet_small",
    batch=128,
    budget=Epochs(2),
    optimizer=SGD(lr=0.05, momentum=0.9, weight_decay=2e-4),
    schedule=OneCycle(),
    standardise=ChannelStatistics(),
    crop=None,
    augment=(PadCrop(2), Flip()),
    average=ExponentialAverage(decay=0.98),
    initialise="he",
    network={"width": 0.25, "image_size": 32},
    reduced={
        "width": "a quarter of the channels",
        "image": "32x32; crops after padding, and flips, instead of 8 to 100 % of the area with photometric distortions",
        "schedule": f"2 epochs, one cycle, in place of {EPOCHS} with a decay of 4 % every 8; the average reaches back 50 steps, not 10,000",
        "first weights": "He's, so that 22 layers without batch norm move at once",
    },
)
