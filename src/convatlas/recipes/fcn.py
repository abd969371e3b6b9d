"""FCN. Long, Shelhamer, Darrell 2015, arXiv:1411.4038, sec. 4.3.

Run, each from the weights of the one before, the first from a classifier's:
convatlas train fcn32s --data folder:PATH --recipe paper --weights runs/vgg16, then fcn16s, then fcn8s.
"""

from convatlas.data.transforms.normalize import ChannelMean, ChannelMeanStd
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.optim.clipping import ClipNorm
from convatlas.optim.losses import PixelCrossEntropy
from convatlas.optim.optimizers import SGD, Adam
from convatlas.optim.schedules import Constant, OneCycle
from convatlas.recipes.recipe import Epochs, Recipe

# Of FCN-32s with VGG-16; with AlexNet the rate is 0.001, with GoogLeNet 5e-5
FCN = Recipe(
    name="fcn",
    source="arXiv:1411.4038, sec. 4.3",
    batch=20,
    micro_batch=1,
    budget=Epochs(175),
    optimizer=SGD(
        lr=1e-4, momentum=0.9, weight_decay=5e-4, bias_lr=2.0
    ),  # "doubled learning rate for biases"
    schedule=Constant(),  # "fixed learning rates"
    loss=PixelCrossEntropy(ignore=255),
    normalize=ChannelMean(scale=255),
    crop=RandomTile(),
    frozen=("upscore", "upscore16", "upscore8"),  # "fix the [final] upsampling to bilinear"
    unstated=(
        "budget (ours: 175 epochs, the smallest number that sec. 4.3 gives for fine-tuning)",
        "whether the loss is the sum or the mean over pixels (ours: the mean; with the sum such a rate "
        "diverges)",
        "the scale of the pixels (ours: 0 to 255, as in Caffe)",
    ),
    substituted={
        "images at their own sizes": "tiles of 500x500, which hold any image of PASCAL VOC whole; beyond an "
        "image lies its mirror image, which has no loss",
    },
)
# Sec. 4.2: "We decrease the learning rate by a factor of 100" for each skip net
FCN_SKIP = FCN.replace(name="fcn_skip", optimizer=FCN.optimizer.replace(lr=1e-6))

# arXiv:1605.06211, the journal's version: one image a step, and a momentum that averages over as many as
# batches of 20 at 0.9
FCN_HEAVY = FCN.replace(
    name="fcn_heavy",
    source="arXiv:1605.06211, sec. 4.3 and 6.2",
    batch=1,
    micro_batch=None,
    optimizer=SGD(lr=1e-5, momentum=0.99, weight_decay=5e-4, bias_lr=2.0),
    unstated=(
        *FCN.unstated[:1],
        "the learning rate of a mean over pixels (1e-10 of the sum is printed, some 1e-5 of the mean over an "
        "image of PASCAL VOC)",
        *FCN.unstated[2:],
    ),
)

FCN_SMALL = FCN.replace(
    name="fcn_small",
    batch=4,
    micro_batch=None,
    budget=Epochs(1),
    optimizer=Adam(lr=1e-3),
    schedule=OneCycle(),
    clip=ClipNorm(norm=1.0),
    init="he",
    normalize=ChannelMeanStd(),
    crop=RandomTile(scale=0.5, hflip=True),
    network={"width": 0.125, "image_size": (120, 160), "dropout": 0.0},
    reduced={
        "width": "an eighth of the channels",
        "image": "half its size, in tiles of 160x120",
        "schedule": "1 epoch of batches of 4, one cycle of Adam, in place of 175 of batches of 20: in so "
        "short a time SGD does not leave the constant prediction",
        "dropout": "none: it would drop half of 512 channels",
        "first weights": "He's, where no classifier's are given",
    },
    unstated=(),
    substituted={},
)
