"""SENet. Hu et al. 2017, arXiv:1709.01507, sec. 5.1.

Run: convatlas train se_resnet50 --data imagenet:PATH --recipe paper.
"""

from convatlas.data.transforms.normalize import ChannelMean
from convatlas.data.transforms.random_crop import RandomResizedCrop
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.plateau import ReduceOnPlateau
from convatlas.optim.schedules import Constant, MultiStep
from convatlas.recipes.mobilenet import MOBILENET_SMALL
from convatlas.recipes.recipe import Epochs, Recipe
from convatlas.recipes.resnet import RESNET_SMALL

EPOCHS = 100

SENET = Recipe(
    name="senet",
    source="arXiv:1709.01507, sec. 5.1",
    batch=1024,
    micro_batch=32,
    budget=Epochs(EPOCHS),
    optimizer=SGD(lr=0.6, momentum=0.9, weight_decay=1e-4),
    schedule=MultiStep(
        milestones=tuple(epoch / EPOCHS for epoch in (30, 60, 90)), factors=(0.1, 0.01, 0.001)
    ),
    loss=CrossEntropy(),
    normalize=ChannelMean(scale=1),  # "normalised through mean RGB-channel subtraction"
    crop=RandomResizedCrop(),
    eval_resize_ratio=256 / 224,
    unstated=(
        "weight decay (ours: ResNet's 1e-4)",
        "the scale of the pixels (ours: 0 to 1)",
        "how many devices share the batch (ours: each has the statistics of its 32 images)",
    ),
)

SENET_MOBILE = SENET.replace(
    name="senet_mobile",
    source="arXiv:1709.01507, sec. 5.1, mobile setting",
    batch=256,
    budget=Epochs(400),
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=4e-5),
    schedule=Constant(),
    # "reduced by a factor of 10 each time the validation loss plateaued"
    plateau=ReduceOnPlateau(factor=0.1, patience=5),
    unstated=(
        "weight decay (ours: ShuffleNet's 4e-5)",
        "plateau: how long without an improvement (ours: 5 epochs)",
        *SENET.unstated[1:],
    ),
    substituted={
        "plateau of the validation loss": "plateau of the validation error, as in every recipe of ours"
    },
)

SENET_SMALL = RESNET_SMALL.replace(name="senet_small", source=SENET.source, unstated=SENET.unstated[:1])
SENET_MOBILE_SMALL = MOBILENET_SMALL.replace(
    name="senet_mobile_small", source=SENET_MOBILE.source, unstated=(), substituted={}
)
