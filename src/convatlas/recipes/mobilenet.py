"""MobileNet. Howard et al. 2017, arXiv:1704.04861, sec. 3.2.

Run: convatlas train mobilenet_v1 --data imagenet:PATH --recipe paper.
"""

from convatlas.data.transforms.augment import RandomCrop, RandomHorizontalFlip
from convatlas.data.transforms.normalize import ChannelMeanStd
from convatlas.data.transforms.random_crop import RandomResizedCrop
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.schedules import OneCycle
from convatlas.recipes.inception import INCEPTION_V3
from convatlas.recipes.recipe import Epochs

MOBILENET = INCEPTION_V3.replace(
    name="mobilenet_v1",
    source="arXiv:1704.04861, sec. 3.2",
    # "very little or no weight decay (l2 regularization) on the depthwise filters"
    optimizer=INCEPTION_V3.optimizer.replace(decay_depthwise=False),
    loss=CrossEntropy(),  # "we do not use side heads or label smoothing"
    auxiliary={},
    # "reduce the amount image of distortions by limiting the size of small crops"
    crop=RandomResizedCrop(area=(0.35, 1.0)),
    augment=(),
    eval_resize_ratio=256 / 224,
    unstated=(
        "the settings of 'RMSprop with asynchronous gradient descent similar to Inception V3' (ours: the "
        "recipe of Inception-v3)",
        "the smallest crop (ours: 35 % of the area)",
        "colours (ours: unchanged)",
    ),
    substituted={"asynchronous gradient descent": "synchronous: staleness depends on the cluster"},
)

MOBILENET_SMALL = MOBILENET.replace(
    name="mobilenet_small",
    batch=128,
    micro_batch=None,
    budget=Epochs(2),
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=4e-5),
    schedule=OneCycle(),
    clip=None,
    ema=None,
    normalize=ChannelMeanStd(),
    crop=None,
    augment=(RandomCrop(2), RandomHorizontalFlip()),
    network={"width": 0.5, "image_size": 32},
    reduced={
        "width": "half of the channels, one of the paper's own multipliers",
        "image": "32x32; crops after padding, and flips",
        "batch": "128 on one device in place of 50 replicas of 32",
        "schedule": "2 epochs, one cycle, in place of 100 with a decay of 6 % every 2",
        "optimizer": "momentum in place of RMSProp with epsilon 1, which is momentum except for a factor",
    },
    unstated=(),
    substituted={},
)
