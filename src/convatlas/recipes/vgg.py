"""VGG. Simonyan, Zisserman 2014, arXiv:1409.1556, sec. 3.1. Run: convatlas train vgg16 --data imagenet:PATH --recipe paper."""

from convatlas.data.transforms.augment import Flip, Lighting, PadCrop
from convatlas.data.transforms.normalize import ChannelMean, ChannelStatistics
from convatlas.data.transforms.random_crop import ScaleJitter
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.plateau import Plateau
from convatlas.optim.schedules import Constant, OneCycle
from convatlas.recipes.recipe import Epochs, Recipe

VGG = Recipe(
    name="vgg",
    source="arXiv:1409.1556, sec. 2.1, 3.1",
    batch=256,
    budget=Epochs(74),  # 370K iterations
    optimizer=SGD(lr=0.01, momentum=0.9, weight_decay=5e-4),
    schedule=Constant(),
    plateau=Plateau(factor=0.1, patience=5, most=3),
    loss=CrossEntropy(),
    standardise=ChannelMean(scale=255),
    crop=ScaleJitter(shorter=(256, 512), crop=224),
    augment=(Lighting(std=0.1),),  # "random RGB colour shift (Krizhevsky et al., 2012)"
    margin=256 / 224,
    initialise="glorot",
    micro_batch=64,  # of each of the four GPUs
    unstated=("plateau: how long the accuracy may stand still (ours: 5 epochs)", "the scale of the pixels (ours: 0 to 255, as in Caffe)"),
    substituted={
        "first weights of net A, Gaussians of variance 0.01; the deeper nets' from a trained A": "Glorot's, which the paper found to do as "
        "well (sec. 3.1): with the printed variance logits begin near 1e5",
        "networks for scale jittering fine-tuned from one trained at S = 384": "trained with scale jittering from the start",
    },
)

VGG_SMALL = VGG.replace(
    name="vgg_small",
    batch=128,
    budget=Epochs(2),
    optimizer=SGD(lr=0.02, momentum=0.9, weight_decay=5e-4),
    schedule=OneCycle(),
    plateau=None,
    initialise="he",
    crop=None,
    augment=(PadCrop(2), Flip()),
    standardise=ChannelStatistics(),
    micro_batch=None,
    network={"width": 0.25, "image_size": 32},
    reduced={
        "width": "a quarter of the channels",
        "image": "32x32; crops after padding, and flips, instead of scale jittering and colour shifts",
        "schedule": "2 epochs, one cycle, in place of 74 with three divisions of the rate",
        "first weights": "He's, and pixels of deviation 1: with Glorot's, eleven layers of ReLU stand still for too much of a training as "
        "short as this",
    },
    unstated=(),
    substituted={},
)
