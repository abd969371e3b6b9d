"""From a user's options to a run, as the command line and notebooks give them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from convatlas import models
from convatlas.errors import UsageError
from convatlas.models.edits import parse_edit
from convatlas.names import encodable
from convatlas.recipes import Epochs
from convatlas.runtime.trust import trust_factory
from convatlas.storage.records import override
from convatlas.storage.regular_file import read_user_file
from convatlas.training.bounds import check_numbers
from convatlas.training.pretrained import PretrainedFile
from convatlas.training.run import Pretrained, Run, RunFile, read_run_file


class RunOptions(NamedTuple):
    """A run, and its weight file where one was read for it."""

    run: Run
    weights: PretrainedFile | None = None


def run_from_options(
    model: str,
    data: str,
    edition: str = "paper",
    recipe: str = "quick",
    seed: int = 0,
    epochs: float | None = None,
    batch: int | None = None,
    weights: str = "",
    overrides: Sequence[str] = (),
    edits: Sequence[str] = (),
) -> RunOptions:
    """`overrides` are `key.path=value`, with the paths of `run.json`'s run; `edits` texts such as
    SwapActivation(to=tanh), in place of those of the weights' network.

    Raises UsageError for a name or a field that does not exist, UserError for a weight file that cannot be
    read.
    """
    trust_factory(model)
    architecture = models.get_architecture(
        model, edition
    )  # an unknown network is reported before anything else
    if not data:
        raise UsageError(f"train needs --data, for example: convatlas train {model} --data fashion-mnist")
    file = PretrainedFile(weights) if weights else None
    if file is not None:
        architecture = file.architecture_of(model, edition)
    if edits:
        architecture = architecture.replace(edits=tuple(parse_edit(text) for text in edits))
    pretrained = Pretrained(file=encodable(weights)) if weights else None
    run = Run(model=architecture, data=data, recipe=recipe, pretrained=pretrained, seed=seed)
    if epochs is not None:
        recipe_of_epochs = run.recipe.without_adapting("budget").replace(budget=Epochs(epochs))
        run = run.replace(recipe=recipe_of_epochs)
    if batch is not None:
        check_numbers(run.recipe.replace(batch=batch), "recipe")
        run = run.replace(recipe=run.recipe.at_batch(batch))
    check_numbers(run)
    for assignment in overrides:
        run = override(run, assignment)
        scope, _, path = assignment.partition("=")[0].partition(".")
        if scope == "recipe":
            run = run.replace(recipe=run.recipe.without_adapting(path.partition(".")[0]))
        check_numbers(run)
    return RunOptions(run, file)


def open_run_file(path: Path) -> RunFile:
    """A `run.json`, or the one in a run's folder. Raises UsageError for anything else."""
    file = path / "run.json" if path.is_dir() else path
    data = read_user_file(file, UsageError, "expected a run.json, or a run's folder")
    return read_run_file(data, str(file))
