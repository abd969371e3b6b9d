"""A run: network, data, recipe, seed and cadence as one frozen value.

Complete before training starts, hashed to an id.
"""

import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import msgspec
from msgspec.structs import force_setattr
from torch import nn

from convatlas import models, recipes
from convatlas.data.sources.source import Conflicts
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.errors import UsageError, printable, wrong_type
from convatlas.models import Architecture
from convatlas.names import encodable
from convatlas.recipes import Recipe
from convatlas.runtime.device import Precision
from convatlas.runtime.trust import trust_factory
from convatlas.storage.records import Record, from_json, record_sha256, to_json
from convatlas.storage.sealed_json import is_sealed, sealed_json
from convatlas.training.bounds import check_numbers
from convatlas.training.probes.records import AnyProbe

FORMAT = 2
MAX_VALIDATIONS = 50  # about, of a recipe that repeats a small set until it has enough steps


# Fields that format 2 did not have at first: they are hashed where they differ from these defaults, so that
# older runs keep their ids
_LATER_FIELDS: dict[str, Any] = {
    "recipe.budget.min_steps": 0,
    "recipe.class_weights": "none",
    "recipe.sampling": "uniform",
    "recipe.adaptive": [],
    "recipe.frozen": [],
    "validate_every": 0,
    "probes": [],
}


class DataContent(Record, frozen=True, kw_only=True):
    """The content of a data set. `sha256` covers all that a run reads of it.

    `quarantined` are the content hashes of the broken samples that were known, and left out, when the run
    started.
    """

    classes: tuple[str, ...]
    counts: dict[str, int]  # images by split
    preprocessing: Preprocessing
    sha256: str
    quarantined: tuple[str, ...] = ()


class DataSpec(Record, frozen=True, omit_defaults=True):
    """A data set by the name that users type; its content is None until it has been opened.

    `conflicts`: files with the same content under different classes stop the run before it starts, or are
    left out. The default is not written, so that a run keeps the id that it had before the field existed.
    """

    name: str
    content: DataContent | None = None
    conflicts: Conflicts = "stop"


class Pretrained(Record, frozen=True, kw_only=True):
    """Weights that a training starts from.

    `head`: the layers that classify, auxiliary ones included, are kept or reinitialised; auto keeps them
    where the classes are the same. `normalization`: mean and deviation of pixels are those of the weights, or
    measured on the data set; auto takes those of the weights where they hold for images of any size. `sha256`
    of the file is filled in when the run is resolved.
    """

    file: str
    head: Literal["auto", "keep", "reinit"] = "auto"
    normalization: Literal["auto", "pretrained", "dataset"] = "auto"
    sha256: str = ""


class Run(Record, frozen=True, kw_only=True):
    """`ca.Run(model="resnet20_cifar", data="fashion-mnist", recipe="quick", seed=0)`; names become records at
    once.

    `sync_batch_norm`: batch norm normalises the images of all ranks as one batch; else each rank normalises
    its own share, and evaluation uses rank 0's statistics. `frozen`: paths of modules that keep their weights
    and statistics, without dropout; `frozen_statistics`: batch norm everywhere uses its running statistics.
    `on_unreadable`: a training image that cannot be read is replaced by the next one, or ends the run.
    `evaluation_batch` is the one batch shape of evaluation. `log_every`, `save_every` and `validate_every`
    are in steps; a `save_every` of 0 is chosen when the run is resolved, a `validate_every` of 0 is an epoch,
    or several of the short epochs of a small set. `probes` are measured at every validation. `notes` say
    what was decided when the run was resolved.

    Raises UsageError for a name that does not exist.
    """

    model: Architecture
    data: DataSpec
    recipe: Recipe = "quick"  # type: ignore[assignment]  # a name until __post_init__
    pretrained: Pretrained | None = None
    frozen: tuple[str, ...] = ()
    frozen_statistics: bool = False
    sync_batch_norm: bool = False
    seed: int = 0
    precision: Literal["auto"] | Precision = "auto"
    compile: Literal["auto"] | bool = "auto"
    on_unreadable: Literal["skip", "fail"] = "skip"
    evaluation_batch: int = 250
    log_every: int = 50
    save_every: int = 0
    validate_every: int = 0
    probes: tuple[AnyProbe, ...] = ()
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            model: str | Architecture,
            data: str | DataSpec,
            recipe: str | Recipe = "quick",
            seed: int = 0,
            **fields: Any,
        ) -> None: ...

    def __repr__(self) -> str:
        return (
            f"<Run {self.id[:8]}: {printable(self.model.title)} on {printable(self.data.name)}, "
            f"recipe {self.recipe.name}, seed {self.seed}>"
        )

    def __post_init__(self) -> None:
        model: object = self.model  # a name until here, and so are the other two
        data: object = self.data
        recipe: object = self.recipe
        if isinstance(model, nn.Module):
            raise UsageError(
                f"a run names its network, so that it can be built again, and takes no "
                f"{type(model).__name__}: give a name of the atlas, or train the module in your own loop and "
                "save it by ca.Classifier.from_module"
            )
        for name, value, kinds, expected in (
            ("model", model, str | Architecture, "a network's name"),
            ("data", data, str | DataSpec, "a data set's name, such as folder:PATH"),
            ("recipe", recipe, str | Recipe, "a recipe's name"),
        ):
            if not isinstance(value, kinds):
                raise wrong_type(f"{name} of a run", value, expected)
        for name, kind in _PLAIN_FIELDS.items():
            try:
                msgspec.convert(getattr(self, name), kind)
            except msgspec.ValidationError as error:
                raise UsageError(f"{name} of a run: {error}") from None
        if isinstance(model, str):
            trust_factory(model)
            force_setattr(self, "model", models.get_architecture(model))
        if isinstance(data, str):
            force_setattr(self, "data", DataSpec(encodable(data)))
        if isinstance(recipe, str):
            self._set_recipe(recipe)

    def _set_recipe(self, name: str) -> None:
        """The recipe by name, with its arguments of the network where the user set none."""
        entry = models.get_entry(self.model.name, self.model.edition)
        force_setattr(self, "recipe", recipes.get_recipe(name, entry))
        arguments = self.model.arguments
        defaults = entry.default_arguments(self.model.edition)
        changes = {
            key: value for key, value in self.recipe.network.items() if arguments[key] == defaults[key]
        }
        model = models.get_architecture(self.model.name, self.model.edition, **(arguments | changes))
        force_setattr(self, "model", model.replace(edits=self.model.edits))

    @property
    def id(self) -> str:
        """SHA-256 of the run's canonical JSON, 64 hexadecimal digits; its first 8 name the folder."""
        document = msgspec.json.decode(to_json(self))
        for path, default in _LATER_FIELDS.items():
            *parents, field = path.split(".")
            node = functools.reduce(operator.getitem, parents, document)
            if field in node and node[field] == default:
                del node[field]
        return record_sha256(document)

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
        """The steps of the whole run."""
        return self.recipe.budget.steps(self.steps_per_epoch)

    @property
    def steps_per_validation(self) -> int:
        """Steps between validations."""
        if self.validate_every:
            return self.validate_every
        budget = self.recipe.budget
        short = isinstance(budget, recipes.Epochs) and budget.min_steps
        epochs = self.steps // (MAX_VALIDATIONS * self.steps_per_epoch) if short else 1
        return self.steps_per_epoch * max(1, epochs)


_PLAIN_FIELDS = {  # whose types are checked in a run that Python makes, as in one that is read
    name: hint
    for name, hint in get_type_hints(Run).items()
    if name in Run.__struct_fields__ and name not in ("model", "data", "recipe", "pretrained")
}


class RunFile(Record, frozen=True, kw_only=True):
    """`run.json`: the portable run, and the environment in which it was started."""

    run: Run
    environment: Mapping[str, str | int | bool] = {}


class _RunDocument(Record, frozen=True, kw_only=True):
    run: Run
    environment: Mapping[str, str | int | bool] = {}
    id: str = ""
    sha256: str = ""


def read_run_file(data: bytes, where: str) -> RunFile:
    """Parse a `run.json`. One that a person wrote has neither `id` nor `sha256`.

    Raises UsageError with the field that does not fit, for another format version, and for a file that was
    changed after ConvAtlas wrote it.
    """
    header = from_json(data, dict[str, Any], where)
    run = header.get("run", {})
    if isinstance(run, dict) and run.get("format", FORMAT) != FORMAT:
        version = printable(run["format"])[:20]
        writer = ", which ConvAtlas 0.1 wrote" if version == "1" else ""
        raise UsageError(
            f"{where} has format version {version}{writer}: this ConvAtlas reads version {FORMAT}; train "
            "again, or continue with the version that wrote it"
        )
    if ("sha256" in header or "id" in header) and not is_sealed(data):
        raise UsageError(
            f"{where} was changed after ConvAtlas wrote it: restore it, or remove its 'id' and 'sha256' to "
            "start it as a new run"
        )
    document = from_json(data, _RunDocument, where)
    try:
        check_numbers(document.run)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    if document.id and document.id != document.run.id:
        raise UsageError(
            f"{where} has the id of another run: remove its 'id' and 'sha256' to start it as a new run"
        )
    return RunFile(run=document.run, environment=document.environment)


def serialize_run_file(run_file: RunFile) -> bytes:
    """The bytes of `run.json`, with the run's id and a SHA-256 of all other bytes."""
    document = {"run": run_file.run, "environment": run_file.environment, "id": run_file.run.id}
    return sealed_json({key: msgspec.json.decode(to_json(value)) for key, value in document.items()})
