"""ZFNet. Zeiler, Fergus 2013, arXiv:1311.2901, sec. 3. Run: convatlas train zfnet --data imagenet:PATH --recipe paper."""

from convatlas.data.transforms.normalize import PixelMean
from convatlas.data.transforms.random_crop import CentralPatch
from convatlas.optim.constraints import FilterRadius
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.plateau import Plateau
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
    plateau=Plateau(factor=0.1, patience=5, most=3),  # "we anneal the learning rate throughout training manually"
    loss=CrossEntropy(),
    standardise=PixelMean(scale=255),
    crop=CentralPatch(side=256, crop=224, corners=True),
    margin=256 / 224,
    constraint=FilterRadius(rms=0.1),  # "vital in the first layer, where the input images are roughly in the [-128,128] range"
    unstated=(
        "plateau: by how much the rate is annealed, how often, and when (ours: Krizhevsky's division by 10, after 5 epochs, three times)",
        "weight decay (ours: none is mentioned, so none)",
    ),
)

ZFNET_SMALL = ALEXNET_SMALL.replace(
    name="zfnet_small",
    source=ZFNET.source,
    constraint=ZFNET.constraint,
    optimizer=SGD(lr=0.02, momentum=0.9),
    network={"width": 0.25, "image_size": 64},
    reduced=ALEXNET_SMALL.reduced | {"image": "64x64; crops after padding, and flips, instead of ten sub-crops of 224"},
    unstated=ZFNET.unstated[1:],
)
