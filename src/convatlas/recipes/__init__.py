"""The training recipes: one file a paper.

`paper` is the recipe of the network's paper, `small` its companion for one machine, `quick` a short modern
schedule, `finetune` a schedule with a low learning rate for pretrained weights.
"""

from fnmatch import fnmatchcase
from functools import cache

import torch
from torch import nn

from convatlas import models
from convatlas.errors import UsageError, unknown_name
from convatlas.models import ModelEntry
from convatlas.recipes.alexnet import ALEXNET, ALEXNET_SMALL
from convatlas.recipes.fcn import FCN, FCN_HEAVY, FCN_SKIP, FCN_SMALL
from convatlas.recipes.googlenet import GOOGLENET, GOOGLENET_SMALL
from convatlas.recipes.inception import (
    BN_INCEPTION,
    BN_INCEPTION_SMALL,
    INCEPTION_SMALL,
    INCEPTION_V2,
    INCEPTION_V3,
)
from convatlas.recipes.lenet5 import LENET5, LENET5_SMALL
from convatlas.recipes.mobilenet import MOBILENET, MOBILENET_SMALL
from convatlas.recipes.quick import (
    FINETUNE,
    FINETUNE_LENET5,
    FINETUNE_MASKS,
    FINETUNE_PHOTOS,
    QUICK,
    QUICK_LENET5,
    QUICK_MASKS,
    QUICK_PHOTOS,
    adapt_to_images,
    without_batch_norm,
)
from convatlas.recipes.recipe import ClassWeights as ClassWeights
from convatlas.recipes.recipe import Epochs as Epochs
from convatlas.recipes.recipe import Iterations as Iterations
from convatlas.recipes.recipe import Recipe as Recipe
from convatlas.recipes.resnet import RESNET, RESNET110_CIFAR, RESNET_CIFAR, RESNET_CIFAR_SMALL, RESNET_SMALL
from convatlas.recipes.resnet_v2 import RESNET_V2, RESNET_V2_CIFAR, RESNET_V2_CIFAR_SMALL, RESNET_V2_SMALL
from convatlas.recipes.senet import SENET, SENET_MOBILE, SENET_MOBILE_SMALL, SENET_SMALL
from convatlas.recipes.shufflenet import SHUFFLENET, SHUFFLENET_SMALL, SHUFFLENET_V2, SHUFFLENET_V2_SMALL
from convatlas.recipes.unet import UNET, UNET_SMALL
from convatlas.recipes.vgg import VGG, VGG_SMALL
from convatlas.recipes.xception import XCEPTION, XCEPTION_SMALL
from convatlas.recipes.zfnet import ZFNET, ZFNET_SMALL

# The paper's recipe and its small companion by the networks' names: the first pattern that matches
RECIPES_BY_PATTERN: dict[str, tuple[Recipe, Recipe]] = {
    "lenet5": (LENET5, LENET5_SMALL),
    "alexnet": (ALEXNET, ALEXNET_SMALL),
    "zfnet*": (ZFNET, ZFNET_SMALL),
    "vgg*": (VGG, VGG_SMALL),
    "googlenet*": (GOOGLENET, GOOGLENET_SMALL),
    "bn_inception": (BN_INCEPTION, BN_INCEPTION_SMALL),
    "inception_v2": (INCEPTION_V2, INCEPTION_SMALL),
    "inception_v3": (INCEPTION_V3, INCEPTION_SMALL),
    "resnetv2_*_cifar": (RESNET_V2_CIFAR, RESNET_V2_CIFAR_SMALL),
    "resnetv2_*": (RESNET_V2, RESNET_V2_SMALL),
    "resnet110_cifar": (RESNET110_CIFAR, RESNET_CIFAR_SMALL),
    "*_cifar": (RESNET_CIFAR, RESNET_CIFAR_SMALL),
    "resnet*": (RESNET, RESNET_SMALL),
    "plain*": (RESNET, RESNET_SMALL),
    "se_mobilenet_v1": (SENET_MOBILE, SENET_MOBILE_SMALL),
    "se_shufflenet_v1": (SENET_MOBILE, SENET_MOBILE_SMALL),
    "se*": (SENET, SENET_SMALL),
    "mobilenet_v1": (MOBILENET, MOBILENET_SMALL),
    "xception": (XCEPTION, XCEPTION_SMALL),
    "shufflenet_v1": (SHUFFLENET, SHUFFLENET_SMALL),
    "shufflenet_v2": (SHUFFLENET_V2, SHUFFLENET_V2_SMALL),
    "fcn32s": (FCN, FCN_SMALL),
    "fcn*": (FCN_SKIP, FCN_SMALL),
    "unet": (UNET, UNET_SMALL),
}
MIN_PHOTO_SIDE = 96  # pixels: networks with inputs of at least this side are for photographs
RECIPES = {recipe.name: recipe for recipes in RECIPES_BY_PATTERN.values() for recipe in recipes}
RECIPES |= {recipe.name: recipe for recipe in (RESNET_CIFAR, FCN_HEAVY)}
NETWORK_RECIPES = ("paper", "small", "quick", "finetune")  # names whose recipe depends on the network


def get_recipe(name: str, network: ModelEntry) -> Recipe:
    """A recipe by name, for this network.

    Raises UsageError for a name that does not exist; the message names the nearest.
    """
    if network.is_imported:
        if name in ("paper", "small"):
            raise UsageError(
                f"{network.name} is a network of your own and has no recipe {name}: choose quick, finetune "
                "or a recipe's name"
            )
    else:
        paper_recipe, small_recipe = next(
            recipes for pattern, recipes in RECIPES_BY_PATTERN.items() if fnmatchcase(network.name, pattern)
        )
        if name in ("paper", paper_recipe.name):
            return paper_recipe
        if name == "small":
            return small_recipe
    if network.task == "segmentation" and name in ("quick", "finetune"):
        return QUICK_MASKS if name == "quick" else FINETUNE_MASKS
    takes_photos = min(network.input[1:]) >= MIN_PHOTO_SIDE
    if name in ("quick", "finetune"):
        if network.name == "lenet5":
            return QUICK_LENET5 if name == "quick" else FINETUNE_LENET5
        photos, others = (QUICK_PHOTOS, QUICK) if name == "quick" else (FINETUNE_PHOTOS, FINETUNE)
        recipe = photos if takes_photos else others
        return recipe if has_batch_norm(network.name) else without_batch_norm(recipe)
    if name not in RECIPES:
        raise unknown_name("recipe", name, [*NETWORK_RECIPES, *RECIPES])
    return RECIPES[name]


def fit_to_data(recipe: Recipe, network: ModelEntry, images: int) -> Recipe:
    """The recipe for a training set of so many images (`quick.adapt_to_images`)."""
    if not recipe.adaptive:
        return recipe
    return adapt_to_images(recipe, get_recipe(recipe.name, network), images)


@cache
def has_batch_norm(name: str, edition: str = "paper") -> bool:
    """Whether a network of the atlas normalises over batches."""
    architecture = models.get_architecture(name, edition)
    with torch.device("meta"):
        return any(isinstance(layer, nn.BatchNorm2d) for layer in models.build(architecture).modules())
