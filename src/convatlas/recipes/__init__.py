"""How each paper trains: one file a paper. `paper` is the network's own, `quick` a short modern schedule."""

from convatlas.errors import UsageError, unknown
from convatlas.models import Entry
from convatlas.recipes.lenet5 import LENET5
from convatlas.recipes.quick import QUICK, QUICK_LENET5, QUICK_PHOTOS
from convatlas.recipes.recipe import Epochs as Epochs
from convatlas.recipes.recipe import Iterations as Iterations
from convatlas.recipes.recipe import Recipe as Recipe
from convatlas.recipes.resnet import RESNET110_CIFAR, RESNET_CIFAR

LARGE = 96  # pixels a side, from which on a network is one for photographs
# A recipe's name, and the networks for which it is another record under the same name
_RECIPES = {"lenet5": LENET5, "resnet_cifar": RESNET_CIFAR, "quick": QUICK}
_FOR_NETWORK = {
    ("resnet_cifar", "resnet110_cifar"): RESNET110_CIFAR,
    ("quick", "lenet5"): QUICK_LENET5,
}


def find(name: str, network: Entry) -> Recipe:
    """A recipe by name, as it is for this network. Raises UsageError for an unknown name, naming the nearest."""
    if name == "paper" and network.recipe is None:
        raise UsageError(f"the recipe of {network.name}'s paper is not here yet: take --recipe quick, or another by name")
    chosen = str(network.recipe) if name == "paper" else name
    if chosen not in _RECIPES:
        raise unknown("recipe", name, ["paper", *_RECIPES])
    if chosen == "quick" and min(network.input[1:]) >= LARGE:
        return QUICK_PHOTOS
    return _FOR_NETWORK.get((chosen, network.name), _RECIPES[chosen])
