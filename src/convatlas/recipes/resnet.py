"""ResNet. He et al. 2015, arXiv:1512.03385. Run: convatlas train resnet20_cifar --data cifar10 --recipe paper."""

from convatlas.data.augment import Flip, PadCrop
from convatlas.data.preprocessing import PixelMean
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.schedules import Steps
from convatlas.recipes.recipe import Iterations, Recipe

STEPS = 64_000

RESNET_CIFAR = Recipe(
    name="resnet_cifar",
    source="arXiv:1512.03385, sec. 4.2",
    batch=128,
    budget=Iterations(STEPS),
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Steps(at=(32_000 / STEPS, 48_000 / STEPS), factors=(0.1, 0.01)),
    loss=CrossEntropy(),
    standardise=PixelMean(),
    augment=(PadCrop(4), Flip()),
    unstated=("standardise: the scale of the pixels (ours: 0 to 1)", "batch norm's momentum and epsilon (ours: torch's)"),
    substituted={"two GPUs of 64 images": "one device: batch norm sees 128 images at a time"},
)

# "we use 0.01 to warm up the training until the training error is below 80% (about 400 iterations), and then go back to 0.1"
RESNET110_CIFAR = RESNET_CIFAR.but(
    schedule=Steps(at=(0, 400 / STEPS, 32_000 / STEPS, 48_000 / STEPS), factors=(0.1, 1, 0.1, 0.01)),
    substituted=RESNET_CIFAR.substituted | {"warm-up until the training error is below 80 %": "for the 400 iterations that this took"},
)
