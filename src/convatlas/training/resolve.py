"""From what a user asks for to a complete run: what hangs on the data and the device is filled in, and what does not fit is said."""

import torch

from convatlas import models
from convatlas.data import Dataset, open_dataset
from convatlas.data.transforms.augment import Flip, Lighting
from convatlas.data.transforms.normalize import color_covariance
from convatlas.data.transforms.preprocessing import center_crop_preprocessing, fixed_size_preprocessing
from convatlas.errors import UsageError, UserError, unknown_name
from convatlas.models import Architecture, Network
from convatlas.recipes import Recipe
from convatlas.runtime.device import Precision, best_precision
from convatlas.storage.records import diff
from convatlas.training import pretrained
from convatlas.training.run import DataContent, DataSpec, Run

_STANDARDISED = {"theirs": "as they are used to", "measured": "by the new data", "auto": ""}


def resolve_run(run: Run, device: torch.device, force: bool = False) -> tuple[Run, Dataset]:
    """The run with everything filled in, and the opened data. Raises UsageError where network, recipe and data do not fit together,
    UserError when the data of a complete run has changed (`force` takes it all the same, with the same classes)."""
    _check_counts(run)
    entry = models.get_entry(run.model.name, run.model.edition)
    if entry.task != "classification":
        raise UsageError(f"{entry.name} labels every pixel, and training on masks is not here yet: choose a network that classifies images")
    dataset = open_dataset(run.data.name, None if run.data.content is None else run.data.content.quarantined)
    notes = list(dataset.notes)
    model = _model(run, dataset, notes)
    size = model.arguments["image_size"]
    assert isinstance(size, tuple)
    content = DataContent(
        classes=dataset.classes,
        counts={name: len(split) for name, split in dataset.splits.items()},
        preprocessing=fixed_size_preprocessing(dataset.channels, dataset.size, size)
        if dataset.size
        else center_crop_preprocessing(dataset.channels, size, run.recipe.margin),
        digest=dataset.sha256,
        quarantined=dataset.quarantined,
    )
    if run.data.content is not None and run.data.content != content:
        if not force or content.classes != run.data.content.classes:
            change = diff(run.data.content, content)[0]
            raise UserError(
                f"{dataset.name} is not the data that this run was made for: its content has changed ({change}); "
                f"train anew, or continue all the same with --force"
            )
        content = run.data.content
    recipe = _recipe(run.recipe, dataset, content, notes)
    with torch.device("meta"):
        network = models.build(model)
    _check(run, recipe, network)
    begun = pretrained.resolve_pretrained(run.initial, model, dataset.classes) if run.initial else None
    if begun:
        head, pixels = ("their own" if begun.head == "kept" else "a new"), begun.standardiser
        notes.append(f"weights begin as those of {begun.file}, with {head} head; pixels are standardised {_STANDARDISED[pixels]}")
    whole = run.replace(
        model=model,
        data=DataSpec(run.data.name, content),
        recipe=recipe,
        initial=begun,
        precision=_precision(device, network) if run.precision == "auto" else run.precision,
        evaluation_batch=min(run.evaluation_batch, content.counts["val"]),
        notes=run.notes or tuple(notes),
    )
    return whole.replace(save_every=run.save_every or min(whole.steps_per_epoch, 200)), dataset


def _check_counts(run: Run) -> None:
    for name, number, least in (
        ("recipe.batch", run.recipe.batch, 1),
        ("recipe.micro_batch", run.recipe.micro_batch, 1),
        ("evaluation_batch", run.evaluation_batch, 1),
        ("log_every", run.log_every, 1),
        ("save_every", run.save_every, 0),
    ):
        if number is not None and number < least:
            raise UsageError(f"{name} should be {least} or more, not {number}: give another with --set {name}=N")


def _model(run: Run, dataset: Dataset, notes: list[str]) -> Architecture:
    """The network for this data, its image size said, and without auxiliary heads that the recipe would not train."""
    entry = models.get_entry(run.model.name, run.model.edition)
    arguments = dict(run.model.arguments)
    for argument, found, what in (("num_classes", len(dataset.classes), "classes"), ("in_chans", dataset.channels, "channels")):
        agreed = (found,) if run.data.content is not None else (found, entry.arguments(run.model.edition)[argument])
        if arguments[argument] not in agreed:
            raise UsageError(f"model.arguments.{argument} is {arguments[argument]} but {dataset.name} has {found} {what}: make them agree")
        arguments[argument] = found
    asked = arguments.get("image_size")
    arguments["image_size"] = asked if isinstance(asked, tuple) else (int(asked), int(asked)) if asked else entry.input[1:]
    if arguments.get("aux") and not run.recipe.auxiliary:
        arguments["aux"] = False
        notes.append(f"no auxiliary heads: the recipe {run.recipe.name} gives their losses no weight")
    return Architecture(run.model.name, run.model.edition, arguments)


def _recipe(recipe: Recipe, dataset: Dataset, content: DataContent, notes: list[str]) -> Recipe:
    """The recipe for this data: no mirrored digits, colours measured, a batch that the data has."""
    if not dataset.hflip_safe and (any(isinstance(a, Flip) for a in recipe.augment) or (recipe.crop and recipe.crop.mirror)):
        recipe = recipe.replace(
            augment=tuple(a for a in recipe.augment if not isinstance(a, Flip)), crop=recipe.crop and recipe.crop.replace(mirror=False)
        )
        notes.append(f"no mirrored images: a mirrored image of {dataset.name} can be of another class, or of none")
    if dataset.channels == 3 and any(isinstance(a, Lighting) and not a.components for a in recipe.augment):
        colours = color_covariance(dataset.splits["train"].images, content.preprocessing)
        recipe = recipe.replace(augment=tuple(a.with_covariance(colours) if isinstance(a, Lighting) else a for a in recipe.augment))
    if recipe.batch > content.counts["train"]:
        smaller = recipe.at_batch(content.counts["train"])
        notes.append(
            f"batch {recipe.batch} became {smaller.batch}, all training images, and the learning rate {recipe.optimizer.lr:.4g} by the "
            f"{recipe.batch_rule} rule {smaller.optimizer.lr:.4g}"
        )
        recipe = smaller
    return recipe


def _precision(device: torch.device, network: Network) -> Precision:
    """The device's best; on a CPU, whose bf16 kernels for many small groups are half as fast as those of fp32, by the network."""
    grouped = any(isinstance(layer, torch.nn.Conv2d) and layer.groups > 2 for layer in network.modules())
    return "fp32" if grouped and device.type == "cpu" else best_precision(device)


def _check(run: Run, recipe: Recipe, network: Network) -> None:
    """Whether the recipe's parts name parts of the network."""
    for head in recipe.auxiliary:
        if head not in network.heads:
            has = f"has {', '.join(network.heads)}" if network.heads else "has none, or was built with aux=false"
            raise UsageError(
                f"the recipe {recipe.name} weights the auxiliary head {head!r}, but {run.model.name} {has}: "
                f"take another recipe, or --set recipe.auxiliary={{}}"
            )
    modules = dict(network.named_modules())
    for path in run.frozen:
        if not path or path not in modules:
            raise unknown_name(f"module of {run.model.name} to be frozen", path, [name for name in modules if name])
    trained = [name for name, _ in network.named_parameters() if not name.startswith(tuple(f"{path}." for path in run.frozen))]
    if not trained:
        raise UsageError(f"every parameter of {run.model.name} is frozen: leave something to be trained")
