"""A run: network, data, recipe, seed and cadence as one frozen value. Complete before training starts, hashed to an id."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from msgspec.structs import force_setattr

from convatlas import models, recipes
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.errors import UsageError
from convatlas.models import Architecture
from convatlas.recipes import Recipe
from convatlas.runtime.device import Precision
from convatlas.storage.records import Record, from_json, record_sha256, to_json
from convatlas.training.pretrained import Initial

FORMAT = 1


class DataContent(Record, frozen=True, kw_only=True):
    """What was found in a data set: all that a run reads of it hashes to `digest`."""

    classes: tuple[str, ...]
    counts: dict[str, int]  # images by split
    preprocessing: Preprocessing
    digest: str
    quarantined: tuple[str, ...] = ()  # content hashes of the broken samples that were known, and left out, when the run was started


class DataSpec(Record, frozen=True):
    """A data set by the name that users type; its content is None until it has been opened."""

    name: str
    content: DataContent | None = None


class Run(Record, frozen=True, kw_only=True):
    """`ca.Run(model="resnet20_cifar", data="fashion-mnist", recipe="quick", seed=0)`; names become records at once.

    `sync_batch_norm` lets batch norm see the images of all ranks as one batch; else each rank normalises its own share, and rank 0's
    statistics are those that evaluation uses. `initial` are weights to begin from. `frozen` are paths of modules that keep theirs, with
    their statistics and without dropout; `frozen_statistics` lets batch norm everywhere use the statistics that it has.
    `evaluation_batch` is the one batch shape of evaluation. `log_every` and `save_every` are in steps; of the
    latter 0 means that completion chooses.
    Raises UsageError for a name that does not exist.
    """

    model: Architecture
    data: DataSpec
    recipe: Recipe = "quick"  # type: ignore[assignment]  # a name until __post_init__
    initial: Initial | None = None
    frozen: tuple[str, ...] = ()
    frozen_statistics: bool = False
    sync_batch_norm: bool = False
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
            self, *, model: str | Architecture, data: str | DataSpec, recipe: str | Recipe = "quick", seed: int = 0, **rest: Any
        ) -> None: ...

    def __post_init__(self) -> None:
        model: object = self.model  # a name until here, and so are the other two
        data: object = self.data
        recipe: object = self.recipe
        if isinstance(model, str):
            force_setattr(self, "model", models.get_architecture(model))
        if isinstance(data, str):
            force_setattr(self, "data", DataSpec(data))
        if isinstance(recipe, str):
            entry = models.get_entry(self.model.name, self.model.edition)
            force_setattr(self, "recipe", recipes.get_recipe(recipe, entry))
            explicit, defaults = self.model.arguments, entry.arguments(self.model.edition)
            # the recipe's arguments, but for those that the user has set
            changes = {name: value for name, value in self.recipe.network.items() if explicit[name] == defaults[name]}
            force_setattr(self, "model", models.get_architecture(self.model.name, self.model.edition, **(explicit | changes)))

    @property
    def id(self) -> str:
        """SHA-256 of the run's canonical JSON, 64 hexadecimal digits; its first 8 name the folder."""
        return record_sha256(self)

    @property
    def content(self) -> DataContent:
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


class RunFile(Record, frozen=True, kw_only=True):
    """`run.json`: the portable run, and the environment in which it was started."""

    run: Run
    environment: Mapping[str, str | int | bool]


def read_run_file(data: bytes, where: str) -> RunFile:
    """Read a `run.json`. Raises UsageError with the field that does not fit, or a version that is not read."""
    version = from_json(data, dict[str, Any], where).get("run", {})
    if isinstance(version, dict) and version.get("format", FORMAT) != FORMAT:
        raise UsageError(f"{where} has format version {version['format']}: this ConvAtlas reads version {FORMAT}")
    return from_json(data, RunFile, where)


def serialize_run_file(stored: RunFile) -> bytes:
    return to_json(stored, indent=2)
