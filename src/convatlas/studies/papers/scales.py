"""The scales that several studies share."""

from collections.abc import Mapping
from typing import Any

from convatlas.studies.study import Scale

TRAINING_ERROR = {"probes": [{"type": "TrainingScores", "images": 2000}]}
QUARTER_WIDTH = {"model.arguments.width": 0.25}


def smoke(recipe: str, changes: Mapping[str, Any]) -> Scale:
    """Some steps on digits."""
    probes = [{"type": "TrainingScores", "images": 100}]
    budget = {"type": "Iterations", "count": 5}
    return Scale(
        data="digits",
        recipe=recipe,
        changes={"probes": probes, **changes, "recipe.budget": budget},
        reduced={"everything": "five steps on digits: only that it runs"},
    )


def fashion(recipe: str, changes: Mapping[str, Any], reduced: Mapping[str, str]) -> Scale:
    """Fashion-MNIST in place of the paper's images."""
    return Scale(
        data="fashion-mnist",
        recipe=recipe,
        changes={**TRAINING_ERROR, **changes},
        reduced={"data": "Fashion-MNIST", **reduced},
    )


# Networks for CIFAR-10 at a quarter of their width, for one epoch
CIFAR_SCALES = {
    "smoke": smoke("quick", QUARTER_WIDTH),
    "small": fashion(
        "quick",
        {**QUARTER_WIDTH, "recipe.budget.count": 1},
        {
            "width": "a quarter of the channels",
            "schedule": "one epoch, one cycle, in place of 64,000 iterations",
        },
    ),
}
