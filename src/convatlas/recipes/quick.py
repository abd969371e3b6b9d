"""A short modern schedule for a good classifier in minutes: one-cycle SGD with Nesterov momentum.

Measured over three seeds, on Fashion-MNIST: docs/generated/results.md, and on small sets:
docs/generated/small_sets.md.
"""

from convatlas.data.transforms.augment import RandomCrop, RandomHorizontalFlip
from convatlas.data.transforms.normalize import ChannelMeanStd
from convatlas.data.transforms.random_crop import RandomResizedCrop
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.optim.clipping import ClipNorm
from convatlas.optim.losses import CrossEntropy, PixelCrossEntropy
from convatlas.optim.optimizers import SGD
from convatlas.optim.schedules import OneCycle
from convatlas.recipes.lenet5 import LENET5
from convatlas.recipes.recipe import Epochs, Recipe

# Below so many training images a set is small: 6 epochs of batches of 128 would be fewer than 500 steps
SMALL_SET = 10_000
SMALLER_BATCH = 4  # times smaller
MIN_STEPS = 500
# Validation top-1 on digits (1,438 training images, one thread), mean of three seeds, from weights of one
# epoch of `quick` on Fashion-MNIST, after 200, 500 and 1,000 steps: LeNet-5 91.1, 95.5 and 96.8 %, ResNet-20
# at half width 89.4, 97.4 and 99.1 %; 1,000 were best for every seed. `quick` from random weights: 99.8 %.
FINETUNE_MIN_STEPS = 1000
CLIP_NORM = 2.0

QUICK = Recipe(
    name="quick",
    source="arXiv:1708.07120 (one-cycle), settings ours",
    batch=128,
    budget=Epochs(6),
    optimizer=SGD(lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_all=False),
    schedule=OneCycle(),
    loss=CrossEntropy(),
    normalize=ChannelMeanStd(),
    augment=(RandomCrop(2), RandomHorizontalFlip()),
    adaptive=("batch", "optimizer", "budget", "clip"),
)

# For networks of photographs: random crops that are as large as a short training needs
QUICK_PHOTOS = QUICK.replace(
    batch=64, crop=RandomResizedCrop(area=(0.25, 1.0)), augment=(), eval_resize_ratio=8 / 7
)

QUICK_LENET5 = QUICK.replace(
    budget=Epochs(20),
    optimizer=SGD(lr=0.003, momentum=0.9, nesterov=True),
    loss=LENET5.loss,  # the paper's
    normalize=LENET5.normalize,
    augment=(),
    unstated=LENET5.unstated,
    adaptive=("batch", "optimizer", "budget", "augment"),
)
# The rate by the square root of the batch; unclipped, since the gradients of its loss are in the hundreds
QUICK_LENET5_SMALL_SET = QUICK_LENET5.replace(
    batch=32,
    budget=Epochs(20, min_steps=MIN_STEPS),
    optimizer=SGD(lr=0.0015, momentum=0.9, nesterov=True, weight_decay=5e-4),
    augment=QUICK.augment,
)

# For pretrained weights: a learning rate that changes them without replacing them
FINETUNE = QUICK.replace(
    name="finetune",
    budget=Epochs(3),
    optimizer=SGD(lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4, decay_all=False),
)
FINETUNE_PHOTOS = FINETUNE.replace(
    batch=64, crop=QUICK_PHOTOS.crop, augment=(), eval_resize_ratio=QUICK_PHOTOS.eval_resize_ratio
)
FINETUNE_LENET5 = QUICK_LENET5.replace(
    name="finetune", budget=Epochs(3), optimizer=QUICK_LENET5.optimizer.replace(lr=0.001)
)

# For networks that label pixels, none of which has batch norm: a few images a step have many pixels
QUICK_MASKS = QUICK.replace(
    batch=4,
    budget=Epochs(6),
    optimizer=SGD(lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4),
    loss=PixelCrossEntropy(),
    init="he",
    clip=ClipNorm(norm=1.0),
    crop=RandomTile(hflip=True),
    augment=(),
    adaptive=(),
)
FINETUNE_MASKS = QUICK_MASKS.replace(
    name="finetune", budget=Epochs(3), optimizer=QUICK_MASKS.optimizer.replace(lr=0.002)
)


def without_batch_norm(recipe: Recipe) -> Recipe:
    """The recipe for a network without batch norm, which would diverge at the rate: a tenth of it, by the
    linear rule from batches of 128, He's first weights (arXiv:1502.01852), clipped gradients."""
    lr = recipe.optimizer.lr / 10 * recipe.batch / QUICK.batch
    return recipe.replace(optimizer=recipe.optimizer.replace(lr=lr), init="he", clip=ClipNorm(norm=CLIP_NORM))


def for_small_set(recipe: Recipe) -> Recipe:
    """The values of the adaptive fields for fewer than `SMALL_SET` training images: smaller batches at the
    rate that the recipe's rule gives them, `MIN_STEPS` of them at least, and clipped gradients."""
    if recipe == QUICK_LENET5:
        return QUICK_LENET5_SMALL_SET
    assert isinstance(recipe.budget, Epochs)
    min_steps = FINETUNE_MIN_STEPS if recipe.name == "finetune" else MIN_STEPS
    return recipe.at_batch(recipe.batch // SMALLER_BATCH).replace(
        budget=recipe.budget.replace(min_steps=min_steps), clip=recipe.clip or ClipNorm(norm=CLIP_NORM)
    )


def adapt_to_images(recipe: Recipe, default: Recipe, images: int) -> Recipe:
    """The recipe for a training set of `images`, with no adaptive fields left.

    `default` is the recipe of its name. A field that differs from the default's was set by the user, and
    stays; with a batch of the user's own, the budget alone is adapted.
    """
    adapted = recipe
    if images < SMALL_SET and recipe.adaptive:
        small = for_small_set(default)
        names = [name for name in recipe.adaptive if getattr(recipe, name) == getattr(default, name)]
        if "batch" not in names:
            names = [name for name in names if name == "budget"]
        adapted = recipe.replace(**{name: getattr(small, name) for name in names})
    return adapted.replace(adaptive=())
