"""VGG. Simonyan, Zisserman 2014, arXiv:1409.1556, sec. 3.1.

Run: convatlas train vgg16 --data imagenet:PATH --recipe paper.
"""

from convatlas.data.transforms.augment import Lighting, RandomCrop, RandomHorizontalFlip
from convatlas.data.transforms.normalize import ChannelMean, ChannelMeanStd
from convatlas.data.transforms.random_crop import ScaleJitter
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.plateau import ReduceOnPlateau
from convatlas.optim.schedules import Constant, OneCycle
from convatlas.recipes.recipe import Epochs, Recipe

VGG = Recipe(
    name="vgg",
    source="arXiv:1409.1556, sec. 2.1, 3.1",
    batch=256,
    budget=Epochs(74),  # 370K iterations
    optimizer=SGD(lr=0.01, momentum=0.9, weight_decay=5e-4),
    schedule=Constant(),
    plateau=ReduceOnPlateau(factor=0.1, patience=5, most=3),
    loss=CrossEntropy(),
    normalize=ChannelMean(scale=255),
    crop=ScaleJitter(resize_range=(256, 512), crop=224),
    augment=(Lighting(std=0.1),),  # "random RGB colour shift (Krizhevsky et al., 2012)"
    eval_resize_ratio=256 / 224,
    init="glorot",
    micro_batch=64,  # the share of each of the four GPUs
    unstated=(
        "plateau: how long without an improvement of the accuracy (ours: 5 epochs)",
        "the scale of the pixels (ours: 0 to 255, as in Caffe)",
    ),
    substituted={
        "first weights of net A, Gaussians of variance 0.01; the deeper nets' from a trained A": (
            "Glorot's, which sec. 3.1 reports as equally good: with the printed variance the first logits "
            "are near 1e5"
        ),
        "networks for scale jittering fine-tuned from one trained at S = 384": (
            "trained with scale jittering from the start"
        ),
    },
)

VGG_SMALL = VGG.replace(
    name="vgg_small",
    batch=128,
    budget=Epochs(2),
    optimizer=SGD(lr=0.02, momentum=0.9, weight_decay=5e-4),
    schedule=OneCycle(),
    plateau=None,
    init="he",
    crop=None,
    augment=(RandomCrop(2), RandomHorizontalFlip()),
    normalize=ChannelMeanStd(),
    micro_batch=None,
    network={"width": 0.25, "image_size": 32},
    reduced={
        "width": "a quarter of the channels",
        "image": "32x32; crops after padding, and flips, instead of scale jittering and colour shifts",
        "schedule": "2 epochs, one cycle, in place of 74 with three divisions of the rate",
        "first weights": "He's, and pixels of deviation 1: with Glorot's, eleven layers of ReLU learn "
        "nothing for too large a share of so short a training",
    },
    unstated=(),
    substituted={},
)
