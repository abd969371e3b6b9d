"""AlexNet. Krizhevsky, Sutskever, Hinton 2012, NIPS, sec. 4 and 5.

Run: convatlas train alexnet --data imagenet:PATH --recipe paper.
"""

from convatlas.data.transforms.augment import Lighting, RandomCrop, RandomHorizontalFlip
from convatlas.data.transforms.normalize import ChannelMeanStd, MeanImage
from convatlas.data.transforms.random_crop import CenterSquareRandomCrop
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.plateau import ReduceOnPlateau
from convatlas.optim.schedules import Constant, OneCycle
from convatlas.recipes.recipe import Epochs, Recipe

ALEXNET = Recipe(
    name="alexnet",
    source="NIPS 2012, sec. 2, 4.1, 5",
    batch=128,
    budget=Epochs(90),
    optimizer=SGD(lr=0.01, momentum=0.9, weight_decay=0.0005, lr_in_velocity=True),
    schedule=Constant(),
    # "divide the learning rate by 10 when the validation error stopped improving"
    plateau=ReduceOnPlateau(factor=0.1, patience=5, most=3),
    loss=CrossEntropy(),
    normalize=MeanImage(scale=255),  # "the (centered) raw RGB values of the pixels"
    crop=CenterSquareRandomCrop(side=256, crop=224),
    augment=(Lighting(std=0.1),),
    eval_resize_ratio=256 / 224,
    unstated=(
        "plateau: how long without an improvement of the error (ours: 5 epochs); the authors decided by hand",
        "whether biases decay (ours: they do, as in the printed rule for w)",
    ),
    substituted={
        "two GPUs, half of the kernels on each": "one device: the layers keep the two groups of the two GPUs",
    },
)

ALEXNET_SMALL = ALEXNET.replace(
    name="alexnet_small",
    budget=Epochs(2),
    optimizer=SGD(lr=0.02, momentum=0.9, weight_decay=0.0005, lr_in_velocity=True),
    schedule=OneCycle(),
    plateau=None,
    init="he",
    crop=None,
    augment=(RandomCrop(4), RandomHorizontalFlip()),
    normalize=ChannelMeanStd(),
    network={"width": 0.25, "image_size": 67},
    reduced={
        "width": "a quarter of the channels",
        "image": "67x67, the smallest that the stem takes; crops after padding, and flips, instead of crops "
        "of 224 from 256 with altered colours",
        "schedule": "2 epochs, one cycle, in place of 90 with three divisions of the rate by hand",
        "first weights": "He's, and pixels of deviation 1: Gaussians of 0.01 were meant for wide layers and "
        "raw pixels, and the signal vanishes in these layers",
    },
    unstated=ALEXNET.unstated[1:],
)
