"""FCN. Long, Shelhamer, Darrell 2015, arXiv:1411.4038, sec. 4.3. U-Net. Ronneberger, Fischer, Brox 2015,
arXiv:1505.04597, sec. 3.

These recipes cannot run yet: they need masks, which ConvAtlas does not read yet.
"""

from convatlas.data.transforms.augment import ElasticTransform
from convatlas.data.transforms.normalize import ChannelMean, PixelRange
from convatlas.optim.losses import PixelCrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.schedules import Constant
from convatlas.recipes.recipe import Epochs, Iterations, Recipe

# With VGG-16; with AlexNet 0.001, with GoogLeNet 5e-5
FCN = Recipe(
    name="fcn",
    source="arXiv:1411.4038, sec. 4.3",
    batch=20,
    micro_batch=1,  # images differ in size
    budget=Epochs(175),
    optimizer=SGD(
        lr=1e-4, momentum=0.9, weight_decay=5e-4, bias_lr=2.0
    ),  # "doubled learning rate for biases"
    schedule=Constant(),  # "fixed learning rates"
    loss=PixelCrossEntropy(ignore=255),
    normalize=ChannelMean(scale=255),
    unstated=(
        "budget (ours: 175 epochs, the smallest number that sec. 4.3 gives for fine-tuning)",
        "whether the loss is the sum or the mean over pixels (ours: the mean; with the sum such a rate "
        "diverges)",
        "the scale of the pixels (ours: 0 to 255, as in Caffe)",
    ),
)

UNET = Recipe(
    name="unet",
    source="arXiv:1505.04597, sec. 3 and 3.1",
    batch=1,
    batch_rule=None,
    budget=Iterations(60_000),
    optimizer=SGD(lr=1e-3, momentum=0.99),
    schedule=Constant(),
    loss=PixelCrossEntropy(ignore=255),
    normalize=PixelRange(low=0.0, high=1.0),
    augment=(ElasticTransform(std=10.0, grid=3),),
    unstated=(
        "learning rate (ours: 1e-3)",
        "budget (ours: 60,000 steps, about the 10 hours of sec. 5)",
        "normalize (ours: 0 to 1)",
    ),
    substituted={
        "the weight map of eq. 2, large between touching cells": "the same weight for every pixel, until "
        "masks are read",
    },
)
