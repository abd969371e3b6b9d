"""The user's run completed from its data and the device; what does not fit is refused."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch

from convatlas import models, recipes
from convatlas.data import Dataset, open_dataset
from convatlas.data.transforms.augment import Lighting, RandomHorizontalFlip
from convatlas.data.transforms.normalize import color_covariance
from convatlas.data.transforms.preprocessing import (
    Preprocessing,
    center_crop_preprocessing,
    fixed_size_preprocessing,
    tile_preprocessing,
)
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.data.transforms.value_range import dataset_value_range, describe_value_range
from convatlas.errors import UsageError, UserError, printable, unknown_name
from convatlas.models import Architecture, ModelEntry, Network
from convatlas.recipes import ClassWeights, Recipe
from convatlas.runtime.device import Precision, best_precision
from convatlas.storage.records import diff
from convatlas.training.bounds import check_numbers
from convatlas.training.pretrained import PretrainedFile, PretrainedWeights, resolve_pretrained
from convatlas.training.run import DataContent, Run
from convatlas.training.run_checks import (
    check_logits,
    check_recipe,
    check_source,
    check_task,
    frozen_by_recipe,
)
from convatlas.training.tasks import task_of

_CONVERTIBLE = {1: {3}, 3: {1}}  # channels of images -> those to which they can be converted
_NORMALIZATION_NOTE = {"pretrained": "as for these weights", "dataset": "by the new data"}


class ResolvedRun(NamedTuple):
    """A complete run, its opened data, its network on meta tensors, its pretrained weights."""

    run: Run
    dataset: Dataset
    network: Network
    pretrained: PretrainedWeights | None


def resolve_run(
    run: Run,
    device: torch.device,
    force: bool = False,
    weights: PretrainedFile | None = None,
    data: str | None = None,
) -> ResolvedRun:
    """Fill in everything. `weights`: the file of `run.pretrained`, where it has been read. `data`: where the
    run's data are now, if they were moved.

    Raises UsageError where network, recipe and data do not fit together, UserError when the data of a
    complete run has changed (`force` takes it all the same, with the same classes).
    """
    check_numbers(run)
    entry = models.get_entry(run.model.name, run.model.edition)
    if entry.is_imported and not force:
        check_source(run)
    if run.recipe.name == "finetune" and run.pretrained is None and run.data.content is None:
        raise UsageError(
            "the recipe finetune changes trained weights, and there are none: give them with --weights FILE, "
            "or train from random weights with --recipe quick"
        )
    quarantined = None if run.data.content is None else run.data.content.quarantined
    dataset = open_dataset(data or run.data.name, quarantined, run.data.conflicts)
    dataset = replace(dataset, name=run.data.name)
    check_task(run, entry, dataset)
    notes = list(dataset.notes)
    model = _resolve_model(run, dataset, notes)
    with torch.device("meta"):
        network = models.build(model)
    if entry.is_imported:
        check_logits(network)
    content = _resolve_content(run, dataset, network, force)
    if content.preprocessing.value_range is not None:
        notes.append(describe_value_range(content.preprocessing.value_range))
    recipe = _resolve_recipe(_fit_recipe(run, entry, content, notes), dataset, content, notes)
    check_recipe(run, recipe, network)
    pretrained, start = run.pretrained, None
    if pretrained is not None:
        file = weights or PretrainedFile(pretrained.file)
        pretrained, start = resolve_pretrained(pretrained, file, model, dataset.classes)
        head = "their own" if pretrained.head == "keep" else "a new"
        normalization = _NORMALIZATION_NOTE[pretrained.normalization]
        notes.append(
            f"starts from the weights of {pretrained.file}, with {head} head; pixels are normalised "
            f"{normalization}"
        )
        notes += start.notes
    resolved = run.replace(
        model=model,
        data=run.data.replace(content=content),
        recipe=recipe,
        pretrained=pretrained,
        precision=_default_precision(device, network) if run.precision == "auto" else run.precision,
        evaluation_batch=task_of(run).evaluation_batch(run.evaluation_batch, content.counts["val"]),
        frozen=(*run.frozen, *frozen_by_recipe(run, recipe, network)),
        notes=run.notes or tuple(notes),
    )
    by_epochs = resolved.replace(validate_every=0).steps_per_validation
    resolved = resolved.replace(save_every=run.save_every or min(by_epochs, 200))
    return ResolvedRun(resolved, dataset, network, start)


def _resolve_model(run: Run, dataset: Dataset, notes: list[str]) -> Architecture:
    """The network for this data, without auxiliary heads that the recipe does not train."""
    entry = models.get_entry(run.model.name, run.model.edition)
    arguments = dict(run.model.arguments)
    for argument, count, noun, allowed in (
        ("num_classes", len(dataset.classes), "classes", {len(dataset.classes)}),
        (
            "in_chans",
            dataset.channels,
            "channels",
            {dataset.channels} | _CONVERTIBLE.get(dataset.channels, set()),
        ),
    ):
        if arguments[argument] is None:
            arguments[argument] = count
        elif arguments[argument] not in allowed:
            raise UsageError(
                f"model.arguments.{argument} is {arguments[argument]} but {dataset.name} has {count} "
                f"{noun}: make them agree, or set it to null for the data's"
            )
    if arguments["in_chans"] != dataset.channels:
        color, original = ("RGB", "grey") if arguments["in_chans"] == 3 else ("grey", "RGB")
        notes.append(
            f"the {original} images are decoded as {color}: "
            f"model.arguments.in_chans is {arguments['in_chans']}"
        )
    size = arguments.get("image_size")
    if not isinstance(size, tuple):
        own_size = dataset.size if entry.is_imported else None
        arguments["image_size"] = (int(size), int(size)) if size else own_size or entry.input[1:]
    if arguments.get("aux") and not run.recipe.auxiliary:
        raise UsageError(
            f"model.arguments.aux is true but the recipe {run.recipe.name} gives the losses of auxiliary "
            "heads no weight: leave it out, or set recipe.auxiliary"
        )
    if "aux" in arguments and arguments["aux"] is None:
        arguments["aux"] = bool(run.recipe.auxiliary)
        if not run.recipe.auxiliary:
            notes.append(f"no auxiliary heads: the recipe {run.recipe.name} gives their losses no weight")
    return run.model.replace(arguments=arguments)


def _resolve_content(run: Run, dataset: Dataset, network: Network, force: bool) -> DataContent:
    content = DataContent(
        classes=dataset.classes,
        counts={name: len(split) for name, split in dataset.splits.items()},
        preprocessing=_preprocessing(run, dataset, network),
        sha256=dataset.sha256,
        quarantined=dataset.quarantined,
    )
    before = run.data.content
    if before is None or before == content:
        return content
    if not force or content.classes != before.classes:
        raise UserError(
            f"{dataset.name} is not the data that this run was made for: its content has changed "
            f"({diff(before, content)[0]}); train again, or continue all the same with --force"
        )
    return before


def _preprocessing(run: Run, dataset: Dataset, network: Network) -> Preprocessing:
    assert network.architecture is not None
    size, channels = network.architecture.arguments["image_size"], network.in_chans
    assert isinstance(size, tuple)
    value_range = dataset_value_range(dataset)
    crop = run.recipe.crop
    if isinstance(crop, RandomTile):
        return tile_preprocessing(channels, size, network.margin, network.stride, crop.scale, value_range)
    if dataset.size:
        return fixed_size_preprocessing(channels, dataset.size, size, value_range)
    return center_crop_preprocessing(channels, size, run.recipe.eval_resize_ratio, value_range)


def _fit_recipe(run: Run, entry: ModelEntry, content: DataContent, notes: list[str]) -> Recipe:
    """The recipe at the size of the training set, with the arithmetic in the notes."""
    images = content.counts["train"]
    recipe = recipes.fit_to_data(run.recipe, entry, images)
    if recipe.batch != run.recipe.batch:
        notes.append(
            f"a small set: batch {run.recipe.batch} became {recipe.batch}, the learning rate "
            f"{run.recipe.optimizer.lr:.4g} became {recipe.optimizer.lr:.4g}"
        )
    budget = recipe.budget
    if isinstance(budget, recipes.Epochs) and budget.min_steps:
        steps_per_epoch = max(1, images // recipe.batch)
        steps = budget.steps(steps_per_epoch)
        if steps > math.ceil(budget.count * steps_per_epoch):
            notes.append(
                f"{steps} steps, the least of this recipe, are {steps / steps_per_epoch:.4g} epochs of "
                f"{steps_per_epoch} in place of {budget.count:g}"
            )
    return recipe


def _resolve_recipe(recipe: Recipe, dataset: Dataset, content: DataContent, notes: list[str]) -> Recipe:
    """The recipe for this data: no mirrored digits, colour statistics measured, a batch that the data has."""
    flips = [step for step in recipe.augment if isinstance(step, RandomHorizontalFlip)]
    if not dataset.hflip_safe and (flips or (recipe.crop and recipe.crop.hflip)):
        recipe = recipe.replace(
            augment=tuple(step for step in recipe.augment if not isinstance(step, RandomHorizontalFlip)),
            crop=recipe.crop and recipe.crop.replace(hflip=False),
        )
        notes.append(
            f"no mirrored images: a mirrored image of {dataset.name} can be of another class, or of none"
        )
    if content.preprocessing.channels == 3 and any(
        isinstance(step, Lighting) and not step.components for step in recipe.augment
    ):
        covariance = color_covariance(dataset.splits["train"].images, content.preprocessing)
        augment = [s.with_covariance(covariance) if isinstance(s, Lighting) else s for s in recipe.augment]
        recipe = recipe.replace(augment=tuple(augment))
    if recipe.batch > content.counts["train"]:
        smaller = recipe.at_batch(content.counts["train"])
        notes.append(
            f"batch {recipe.batch} became {smaller.batch}, all training images, and the learning rate "
            f"{recipe.optimizer.lr:.4g} by the {recipe.batch_rule} rule {smaller.optimizer.lr:.4g}"
        )
        recipe = smaller
    return recipe.replace(class_weights=_resolve_class_weights(recipe, dataset))


def _resolve_class_weights(recipe: Recipe, dataset: Dataset) -> ClassWeights:
    """A weight for every class where there are any: "balanced" ones are n / (classes * images of the class),
    and 1 for a class without training images."""
    weights = recipe.class_weights
    if weights == "none":
        return weights
    if isinstance(weights, dict):
        for name, weight in weights.items():
            if name not in dataset.classes:
                raise unknown_name("class in recipe.class_weights", name, dataset.classes)
            if not 0 < weight < math.inf:
                raise UsageError(
                    f"recipe.class_weights gives {printable(name)} {weight:g}: a weight should be above 0"
                )
        return {name: weights.get(name, 1.0) for name in dataset.classes}
    sizes = dataset.splits["train"].class_sizes(len(dataset.classes)).tolist()
    num_present = sum(size > 0 for size in sizes)
    return {
        name: sum(sizes) / (num_present * size) if size else 1.0
        for name, size in zip(dataset.classes, sizes, strict=True)
    }


def _default_precision(device: torch.device, network: Network) -> Precision:
    """The device's best; fp32 on a CPU for grouped convolutions, whose bf16 kernels are slower."""
    grouped = any(isinstance(layer, torch.nn.Conv2d) and layer.groups > 2 for layer in network.modules())
    return "fp32" if grouped and device.type == "cpu" else best_precision(device)
