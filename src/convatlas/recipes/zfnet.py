"""ZFNet. Zeiler, Fergus 2013, arXiv:1311.2901, sec. 3.

Run: convatlas train zfnet --data imagenet:PATH --recipe paper.
"""

from convatlas.data.transforms.normalize import MeanImage
from convatlas.data.transforms.random_crop import CenterSquareRandomCrop
from convatlas.optim.constraints import FilterRadius
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.plateau import ReduceOnPlateau
from convatlas.optim.schedules import Constant
from convatlas.recipes.alexnet import ALEXNET_SMALL
from convatlas.recipes.recipe import Epochs, Recipe

ZFNET = Recipe(
    name="zfnet",
    source="arXiv:1311.2901, sec. 3",
    batch=128,
    budget=Epochs(70),
    optimizer=SGD(lr=0.01, momentum=0.9),
    schedule=Constant(),
    # "we anneal the learning rate throughout training manually"
    plateau=ReduceOnPlateau(factor=0.1, patience=5, most=3),
    loss=CrossEntropy(),
    normalize=MeanImage(scale=255),
    crop=CenterSquareRandomCrop(side=256, crop=224, corners=True),
    eval_resize_ratio=256 / 224,
    # "vital in the first layer, where the input images are roughly in the [-128,128] range"
    constraint=FilterRadius(rms=0.1),
    unstated=(
        "plateau: by how much the rate is annealed, how often, and when (ours: Krizhevsky's division by 10, "
        "after 5 epochs, three times)",
        "weight decay (ours: none; the paper mentions none)",
    ),
)

ZFNET_SMALL = ALEXNET_SMALL.replace(
    name="zfnet_small",
    source=ZFNET.source,
    constraint=ZFNET.constraint,
    optimizer=SGD(lr=0.02, momentum=0.9),
    network={"width": 0.25, "image_size": 64},
    reduced=ALEXNET_SMALL.reduced
    | {"image": "64x64; crops after padding, and flips, instead of ten sub-crops of 224"},
    unstated=ZFNET.unstated[1:],
)
