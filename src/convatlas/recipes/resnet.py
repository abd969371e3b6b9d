"""ResNet. He et al. 2015, arXiv:1512.03385.

Run: convatlas train resnet20_cifar --data cifar10 --recipe paper.
"""

from convatlas.data.transforms.augment import Lighting, RandomCrop, RandomHorizontalFlip
from convatlas.data.transforms.normalize import ChannelMeanStd, MeanImage
from convatlas.data.transforms.random_crop import ScaleJitter
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.plateau import ReduceOnPlateau
from convatlas.optim.schedules import Constant, MultiStep, OneCycle
from convatlas.recipes.recipe import Epochs, Iterations, Recipe

RESNET = Recipe(
    name="resnet",
    source="arXiv:1512.03385, sec. 3.4",
    batch=256,
    budget=Iterations(600_000),  # "up to 60 x 10^4 iterations"
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Constant(),
    plateau=ReduceOnPlateau(factor=0.1, patience=5),  # "divided by 10 when the error plateaus"
    loss=CrossEntropy(),
    normalize=MeanImage(),
    crop=ScaleJitter(resize_range=(256, 480), crop=224),
    augment=(Lighting(std=0.1),),  # "the standard color augmentation in [21]"
    eval_resize_ratio=256 / 224,
    micro_batch=32,
    unstated=(
        "plateau: how long without an improvement of the error (ours: 5 epochs)",
        "how many devices share the batch (ours: 8, each with the statistics of its 32 images)",
        "normalize: the scale of the pixels (ours: 0 to 1)",
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
    schedule=MultiStep(milestones=(32_000 / STEPS, 48_000 / STEPS), factors=(0.1, 0.01)),
    loss=CrossEntropy(),
    normalize=MeanImage(),
    augment=(RandomCrop(4), RandomHorizontalFlip()),
    micro_batch=64,  # "a mini-batch size of 128 on two GPUs"
    unstated=(
        "normalize: the scale of the pixels (ours: 0 to 1)",
        "batch norm's momentum and epsilon (ours: torch's)",
    ),
)

# "we use 0.01 to warm up the training until the training error is below 80% (about 400 iterations), and then
# go back to 0.1"
RESNET110_CIFAR = RESNET_CIFAR.replace(
    schedule=MultiStep(
        milestones=(0, 400 / STEPS, 32_000 / STEPS, 48_000 / STEPS), factors=(0.1, 1, 0.1, 0.01)
    ),
    substituted={"warm-up until the training error is below 80 %": "warm-up for 400 iterations, as printed"},
)

RESNET_CIFAR_SMALL = RESNET_CIFAR.replace(
    name="resnet_cifar_small",
    budget=Epochs(2),
    schedule=OneCycle(),
    augment=(RandomCrop(2), RandomHorizontalFlip()),
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
    normalize=ChannelMeanStd(),
    crop=None,
    augment=(RandomCrop(4), RandomHorizontalFlip()),
    network={"width": 0.25, "image_size": 64},
    reduced={
        "width": "a quarter of the channels",
        "image": "64x64; crops after padding, and flips, instead of scale jittering and altered colours",
        "batch": "128 on one device in place of 256 on several",
        "schedule": "2 epochs, one cycle, in place of up to 600,000 steps with divisions of the rate",
    },
    unstated=RESNET.unstated[3:],
)
