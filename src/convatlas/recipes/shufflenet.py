"""ShuffleNet. Zhang et al. 2017, arXiv:1707.01083, sec. 4. ShuffleNet V2. Ma et al. 2018, arXiv:1807.11164,
sec. 4.

Run: convatlas train shufflenet_v2 --data imagenet:PATH --recipe paper.
"""

from convatlas.data.transforms.normalize import ChannelMeanStd
from convatlas.data.transforms.random_crop import RandomResizedCrop
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.schedules import Polynomial
from convatlas.recipes.mobilenet import MOBILENET_SMALL
from convatlas.recipes.recipe import Iterations, Recipe

SHUFFLENET = Recipe(
    name="shufflenet",
    source="arXiv:1707.01083, sec. 4",
    batch=1024,
    budget=Iterations(300_000),
    optimizer=SGD(lr=0.5, momentum=0.9, weight_decay=4e-5),
    schedule=Polynomial(power=1.0, end=0.0),  # "linear-decay learning rate policy (decreased from 0.5 to 0)"
    loss=CrossEntropy(),
    normalize=ChannelMeanStd(),
    crop=RandomResizedCrop(area=(0.25, 1.0)),  # "slightly less aggressive scale augmentation"
    eval_resize_ratio=256 / 224,
    micro_batch=256,  # the share of each of the four GPUs
    unstated=(
        "the 'training settings and hyper-parameters used in [ResNeXt]' except the two that differ (ours: "
        "momentum 0.9)",
        "the smallest crop (ours: 25 % of the area)",
        "colours (ours: unchanged)",
    ),
)

SHUFFLENET_V2 = SHUFFLENET.replace(
    name="shufflenet_v2",
    source="arXiv:1807.11164, sec. 4",
    unstated=(
        "everything: 'our training protocol follows' that of arXiv:1707.01083 (ours: its recipe)",
        *SHUFFLENET.unstated[1:],
    ),
)

SHUFFLENET_SMALL = MOBILENET_SMALL.replace(
    name="shufflenet_small",
    source=SHUFFLENET.source,
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=4e-5),
    reduced={
        "width": "half of the channels, one of the papers' own widths",
        "image": "32x32; crops after padding, and flips",
        "batch": "128 on one device in place of 1024 on four",
        "schedule": "2 epochs, one cycle, in place of 300,000 steps of linear decay",
    },
)
SHUFFLENET_V2_SMALL = SHUFFLENET_SMALL.replace(name="shufflenet_v2_small", source=SHUFFLENET_V2.source)
