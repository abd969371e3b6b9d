"""ResNet. He et al. 2015, arXiv:1512.03385. Run: convatlas train resnet20_cifar --data cifar10 --recipe paper."""

from convatlas.data.transforms.augment import Flip, Lighting, PadCrop
from convatlas.data.transforms.normalize import ChannelStatistics, PixelMean
from convatlas.data.transforms.random_crop import ScaleJitter
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.plateau import Plateau
from convatlas.optim.schedules import Constant, OneCycle, Steps
from convatlas.recipes.recipe import Epochs, Iterations, Recipe

RESNET = Recipe(
    name="resnet",
    source="arXiv:1512.03385, sec. 3.4",
    batch=256,
    budget=Iterations(600_000),  # "up to 60 x 10^4 iterations"
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Constant(),
    plateau=Plateau(factor=0.1, patience=5),  # "divided by 10 when the error plateaus"
    loss=CrossEntropy(),
    standardise=PixelMean(),
    crop=ScaleJitter(shorter=(256, 480), crop=224),
    augment=(Lighting(std=0.1),),  # "the standard color augmentation in [21]"
    margin=256 / 224,
    micro_batch=32,
    unstated=(
        "plateau: how long the error may stand still (ours: 5 epochs)",
        "how many devices share the batch (ours: 8, each with the statistics of its 32 images)",
        "standardise: the scale of the pixels (ours: 0 to 1)",
        "batch norm's momentum and epsilon (ours: torch's)",
    ),
)

STEPS = 64_000

RESNET_CIFAR = Recipe(
    name="resnet_cifar",
    source="arXiv:1512.03385, sec. 4.2",
    batch=128,
    budget=Iterations(STEPS),
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Steps(at=(32_000 / STEPS, 48_000 / STEPS), factors=(0.1, 0.01)),
    loss=CrossEntropy(),
    standardise=PixelMean(),
    augment=(PadCrop(4), Flip()),
    micro_batch=64,  # "a mini-batch size of 128 on two GPUs"
    unstated=("standardise: the scale of the pixels (ours: 0 to 1)", "batch norm's momentum and epsilon (ours: torch's)"),
)

# "we use 0.01 to warm up the training until the training error is below 80% (about 400 iterations), and then go back to 0.1"
RESNET110_CIFAR = RESNET_CIFAR.replace(
    schedule=Steps(at=(0, 400 / STEPS, 32_000 / STEPS, 48_000 / STEPS), factors=(0.1, 1, 0.1, 0.01)),
    substituted={"warm-up until the training error is below 80 %": "for the 400 iterations that this took"},
)

RESNET_CIFAR_SMALL = RESNET_CIFAR.replace(
    name="resnet_cifar_small",
    budget=Epochs(2),
    schedule=OneCycle(),
    augment=(PadCrop(2), Flip()),
    micro_batch=None,
    network={"width": 0.5},
    reduced={
        "width": "half of the channels",
        "batch": "128 on one device in place of 64 on each of two",
        "schedule": "2 epochs, one cycle, in place of 64,000 steps with two divisions of the rate",
        "augment": "crops after 2 pixels of padding instead of 4",
    },
)

RESNET_SMALL = RESNET.replace(
    name="resnet_small",
    batch=128,
    micro_batch=None,
    budget=Epochs(2),
    schedule=OneCycle(),
    plateau=None,
    standardise=ChannelStatistics(),
    crop=None,
    augment=(PadCrop(4), Flip()),
    network={"width": 0.25, "image_size": 64},
    reduced={
        "width": "a quarter of the channels",
        "image": "64x64; crops after padding, and flips, instead of scale jittering and altered colours",
        "batch": "128 on one device in place of 256 on several",
        "schedule": "2 epochs, one cycle, in place of up to 600,000 steps with divisions of the rate",
    },
    unstated=RESNET.unstated[3:],
)
