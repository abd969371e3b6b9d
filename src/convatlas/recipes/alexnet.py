"""AlexNet. Krizhevsky, Sutskever, Hinton 2012, NIPS, sec. 4 and 5. Run: convatlas train alexnet --data imagenet:PATH --recipe paper."""

from convatlas.data.transforms.augment import Flip, Lighting, PadCrop
from convatlas.data.transforms.normalize import ChannelStatistics, PixelMean
from convatlas.data.transforms.random_crop import CentralPatch
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.plateau import Plateau
from convatlas.optim.schedules import Constant, OneCycle
from convatlas.recipes.recipe import Epochs, Recipe

ALEXNET = Recipe(
    name="alexnet",
    source="NIPS 2012, sec. 2, 4.1, 5",
    batch=128,
    budget=Epochs(90),
    optimizer=SGD(lr=0.01, momentum=0.9, weight_decay=0.0005, lr_in_velocity=True),
    schedule=Constant(),
    plateau=Plateau(factor=0.1, patience=5, most=3),  # "divide the learning rate by 10 when the validation error stopped improving"
    loss=CrossEntropy(),
    standardise=PixelMean(scale=255),  # "the (centered) raw RGB values of the pixels"
    crop=CentralPatch(side=256, crop=224),
    augment=(Lighting(std=0.1),),
    margin=256 / 224,
    unstated=(
        "plateau: how long the error may stand still (ours: 5 epochs); the authors looked",
        "whether biases decay (ours: they do, as the printed rule for w has it)",
    ),
    substituted={"two GPUs, half of the kernels on each": "one device: the two groups of the layers are what is left of them"},
)

ALEXNET_SMALL = ALEXNET.replace(
    name="alexnet_small",
    budget=Epochs(2),
    optimizer=SGD(lr=0.02, momentum=0.9, weight_decay=0.0005, lr_in_velocity=True),
    schedule=OneCycle(),
    plateau=None,
    initialise="he",
    crop=None,
    augment=(PadCrop(4), Flip()),
    standardise=ChannelStatistics(),
    network={"width": 0.25, "image_size": 67},
    reduced={
        "width": "a quarter of the channels",
        "image": "67x67, the smallest that the stem takes; crops after padding, and flips, instead of 224 of 256 with altered colours",
        "schedule": "2 epochs, one cycle, in place of 90 with three divisions of the rate by hand",
        "first weights": "He's, and pixels of deviation 1: Gaussians of 0.01 were meant for wide layers and raw pixels, and pass no signal "
        "on in these",
    },
    unstated=ALEXNET.unstated[1:],
)
