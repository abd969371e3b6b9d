"""A run: network, data, recipe, seed and cadence as one frozen value. Complete before training starts, hashed to an id."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from msgspec.structs import force_setattr

from convatlas import models, recipes
from convatlas.data import Dataset, open_dataset
from convatlas.data.augment import Flip, Lighting
from convatlas.data.preprocessing import Preprocessing, centre, covariance, fit
from convatlas.errors import UsageError, UserError
from convatlas.models import Architecture
from convatlas.recipes import Recipe
from convatlas.runtime.device import Precision, best_precision
from convatlas.storage.records import Record, from_json, identify, to_json

FORMAT = 1


class Content(Record, frozen=True, kw_only=True):
    """What was found in a data set: all that a run reads of it hashes to `digest`."""

    classes: tuple[str, ...]
    counts: dict[str, int]  # images by split
    preprocessing: Preprocessing
    digest: str
    quarantined: tuple[str, ...] = ()  # content hashes of the broken samples that were known, and left out, when the run was started


class Data(Record, frozen=True):
    """A data set by the name that users type; its content is None until it has been opened."""

    name: str
    content: Content | None = None


class Run(Record, frozen=True, kw_only=True):
    """`ca.Run(model="resnet20_cifar", data="fashion-mnist", recipe="quick", seed=0)`; names become records at once.

    `evaluation_batch` is the one batch shape of evaluation. `log_every` and `save_every` are in steps; 0 means that completion
    chooses. Raises UsageError for a name that does not exist.
    """

    model: Architecture
    data: Data
    recipe: Recipe = "quick"  # type: ignore[assignment]  # a name until __post_init__
    seed: int = 0
    precision: Literal["auto"] | Precision = "auto"
    compile: Literal["auto"] | bool = "auto"
    broken: Literal["skip", "fail"] = "skip"  # what a training image that cannot be read does: gives way to the next, or ends the run
    evaluation_batch: int = 250
    log_every: int = 50
    save_every: int = 0
    notes: tuple[str, ...] = ()  # what completion decided
    format: int = FORMAT

    if TYPE_CHECKING:

        def __init__(
            self, *, model: str | Architecture, data: str | Data, recipe: str | Recipe = "quick", seed: int = 0, **rest: Any
        ) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.model, str):
            force_setattr(self, "model", models.describe(self.model))
        if isinstance(self.data, str):
            force_setattr(self, "data", Data(self.data))
        if isinstance(self.recipe, str):
            force_setattr(self, "recipe", recipes.find(self.recipe, models.find(self.model.name, self.model.edition)))

    @property
    def id(self) -> str:
        """SHA-256 of the run's canonical JSON, 64 hexadecimal digits; its first 8 name the folder."""
        return identify(self)

    @property
    def content(self) -> Content:
        if self.data.content is None:
            raise ValueError("the run is not complete: its data has not been opened")
        return self.data.content

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.content.counts["train"] // self.recipe.batch)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.recipe.budget.steps(self.steps_per_epoch)

    def complete(self, device: torch.device) -> tuple[Self, Dataset]:
        """The run with everything filled in that hangs on the data and the device, and the opened data.

        Raises UsageError where the run and the data disagree.
        """
        entry = models.find(self.model.name, self.model.edition)
        if entry.task != "classification":
            raise UsageError(
                f"{entry.name} labels every pixel, and training on masks is not here yet: choose a network that classifies images"
            )
        arguments = dict(self.model.arguments)
        asked = arguments.get("image_size")
        size = asked if isinstance(asked, tuple) else (int(asked), int(asked)) if asked else entry.input[1:]
        dataset = open_dataset(self.data.name, None if self.data.content is None else self.data.content.quarantined)
        for argument, found, what in (("num_classes", len(dataset.classes), "classes"), ("in_chans", dataset.channels, "channels")):
            agreed = (found,) if self.data.content is not None else (found, entry.arguments(self.model.edition)[argument])
            if arguments[argument] not in agreed:
                raise UsageError(
                    f"model.arguments.{argument} is {arguments[argument]} but {dataset.name} has {found} {what}: make them agree"
                )
            arguments[argument] = found
        arguments["image_size"] = size
        counts = {name: len(split) for name, split in dataset.splits.items()}
        content = Content(
            classes=dataset.classes,
            counts=counts,
            preprocessing=fit(dataset.channels, dataset.size, size) if dataset.size else centre(dataset.channels, size, self.recipe.margin),
            digest=dataset.digest,
            quarantined=dataset.quarantined,
        )
        if self.data.content is not None and self.data.content != content:
            raise UserError(f"{dataset.name} is not the data that this run was made for: its content has changed")
        recipe, notes = self.recipe, list(dataset.notes)
        if not dataset.mirrors and (any(isinstance(a, Flip) for a in recipe.augment) or (recipe.crop and recipe.crop.mirror)):
            recipe = recipe.but(
                augment=tuple(a for a in recipe.augment if not isinstance(a, Flip)), crop=recipe.crop and recipe.crop.but(mirror=False)
            )
            notes.append(f"no mirrored images: a mirrored image of {dataset.name} can be of another class, or of none")
        if dataset.channels == 3 and any(isinstance(a, Lighting) and not a.components for a in recipe.augment):
            colours = covariance(dataset.splits["train"].images, content.preprocessing)
            recipe = recipe.but(augment=tuple(a.measured(colours) if isinstance(a, Lighting) else a for a in recipe.augment))
        if recipe.batch > counts["train"]:
            recipe = recipe.but(batch=counts["train"])
            notes.append(f"batch {self.recipe.batch} became {counts['train']}, all training images")
        run = self.but(
            model=Architecture(self.model.name, self.model.edition, arguments),
            data=Data(self.data.name, content),
            recipe=recipe,
            precision=best_precision(device) if self.precision == "auto" else self.precision,
            evaluation_batch=min(self.evaluation_batch, counts["val"]),
            notes=self.notes or tuple(notes),
        )
        return run.but(save_every=self.save_every or min(run.steps_per_epoch, 200)), dataset


class Stored(Record, frozen=True, kw_only=True):
    """`run.json`: the portable run, and the environment in which it was started."""

    run: Run
    environment: Mapping[str, str | int | bool]


def read(data: bytes, where: str) -> Stored:
    """Read a `run.json`. Raises UsageError with the field that does not fit, or a version that is not read."""
    version = from_json(data, dict[str, Any], where).get("run", {})
    if isinstance(version, dict) and version.get("format", FORMAT) != FORMAT:
        raise UsageError(f"{where} has format version {version['format']}: this ConvAtlas reads version {FORMAT}")
    return from_json(data, Stored, where)


def write(stored: Stored) -> bytes:
    return to_json(stored, indent=2)
