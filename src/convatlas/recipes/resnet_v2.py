"""ResNet v2. He et al. 2016, arXiv:1603.05027, appendix.

Run: convatlas train resnetv2_164_cifar --data cifar10 --recipe paper.
"""

from convatlas.data.transforms.random_crop import RandomResizedCrop
from convatlas.optim.schedules import MultiStep
from convatlas.recipes.recipe import Epochs
from convatlas.recipes.resnet import RESNET, RESNET110_CIFAR, RESNET_CIFAR_SMALL, RESNET_SMALL

EPOCHS = 90

RESNET_V2 = RESNET.replace(
    name="resnet_v2",
    source="arXiv:1603.05027, sec. 5 and appendix",
    budget=Epochs(EPOCHS),
    schedule=MultiStep(milestones=(30 / EPOCHS, 60 / EPOCHS), factors=(0.1, 0.01)),
    plateau=None,
    crop=RandomResizedCrop(),  # Table 5: "scale + aspect ratio", the better of its two
    augment=(),
    unstated=(
        f"budget (ours: {EPOCHS} epochs, as many after the second division of the rate as after the first)",
        "colours (ours: unchanged)",
        *RESNET.unstated[2:],
    ),
)

# "Our implementation details are the same as [1]"; for all depths "we warm up the training by using a smaller
# learning rate of 0.01 at the beginning 400 iterations and go back to 0.1 after that"
RESNET_V2_CIFAR = RESNET110_CIFAR.replace(
    name="resnet_v2_cifar",
    source="arXiv:1603.05027, sec. 5 and appendix",
    substituted={},
)

RESNET_V2_SMALL = RESNET_SMALL.replace(name="resnet_v2_small", source=RESNET_V2.source)
RESNET_V2_CIFAR_SMALL = RESNET_CIFAR_SMALL.replace(
    name="resnet_v2_cifar_small",
    source=RESNET_V2_CIFAR.source,
    network={"width": 0.25},
    reduced=RESNET_CIFAR_SMALL.reduced | {"width": "a quarter of the channels"},
)
