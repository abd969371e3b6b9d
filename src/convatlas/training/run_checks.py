"""What does not fit together in a run: network, recipe and data of different tasks, parts that the network
lacks."""

from convatlas import analysis, models
from convatlas.data import Dataset
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.errors import UsageError, UserError, printable, unknown_name
from convatlas.models import ModelEntry, Network
from convatlas.optim.losses import PixelCrossEntropy
from convatlas.recipes import Recipe
from convatlas.training.run import Run


def check_task(run: Run, entry: ModelEntry, dataset: Dataset) -> None:
    """Raises UsageError for data or a recipe of another task than the network's."""
    name = printable(dataset.name)
    if entry.task == "segmentation":
        if dataset.task != entry.task:
            raise UsageError(
                f"{entry.name} labels every pixel, and {name} has no masks: expected folder:PATH with "
                "PATH/train/images and PATH/train/masks, or choose a network that classifies images"
            )
        if not isinstance(run.recipe.crop, RandomTile) or not isinstance(run.recipe.loss, PixelCrossEntropy):
            raise UsageError(
                f"the recipe {run.recipe.name} is for networks that classify images, and {entry.name} labels "
                "every pixel: choose paper, small or quick"
            )
        return
    if dataset.task == "segmentation":
        raise UsageError(
            f"{name} has masks, and {entry.name} classifies images: choose a network that labels pixels, "
            "such as unet or fcn32s"
        )
    if isinstance(run.recipe.crop, RandomTile) or isinstance(run.recipe.loss, PixelCrossEntropy):
        raise UsageError(
            f"the recipe {run.recipe.name} is for networks that label pixels, and {entry.name} classifies "
            "images: choose paper, small or quick"
        )


def frozen_by_recipe(run: Run, recipe: Recipe, network: Network) -> list[str]:
    """The modules that the recipe does not train, of those that the network has."""
    modules = dict(network.named_modules())
    return [path for path in recipe.frozen if path in modules and path not in run.frozen]


def check_recipe(run: Run, recipe: Recipe, network: Network) -> None:
    """Raises UsageError for heads and frozen modules that the network does not have."""
    for head in recipe.auxiliary:
        if head not in network.heads:
            heads = (
                f"has {', '.join(network.heads)}"
                if network.heads
                else "has none, or was built with aux=false"
            )
            raise UsageError(
                f"the recipe {recipe.name} weights the auxiliary head {head!r}, but {run.model.name} "
                f"{heads}: choose another recipe, or --set recipe.auxiliary={{}}"
            )
    modules = dict(network.named_modules())
    for path in run.frozen:
        if not path or path not in modules:
            raise unknown_name(
                f"module of {run.model.name} to freeze", path, [name for name in modules if name]
            )
    frozen = tuple(f"{path}." for path in run.frozen)
    if all(name.startswith(frozen) for name, _ in network.named_parameters()):
        raise UsageError(f"every parameter of {run.model.name} is frozen: leave some to be trained")


def check_source(run: Run) -> None:
    """Raises UserError for a network of the user's own whose source is not that of the run."""
    current = models.get_architecture(run.model.name).source_sha256
    if run.model.source_sha256 and run.model.source_sha256 != current:
        raise UserError(
            f"the source of {run.model.name} has changed since this run was made (SHA-256 "
            f"{run.model.source_sha256[:8]}, now {current[:8]}): train again, or continue all the same with "
            "--force"
        )


def check_logits(network: Network) -> None:
    """Raises UsageError for a network of the user's own that does not give logits (n, num_classes)."""
    assert network.architecture is not None
    assert network.input_shape is not None
    shape = analysis.analyze(network, network.input_shape).trace.calls[0].output_shapes[0]
    num_classes = network.architecture.arguments["num_classes"]
    if shape != (1, num_classes):
        raise UsageError(
            f"{network.name} gives {tuple(shape)} for one image: expected logits (1, {num_classes}), so let "
            "num_classes set its last layer"
        )
