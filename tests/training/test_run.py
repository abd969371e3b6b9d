from pathlib import Path

import pytest
import torch

import convatlas as ca
from convatlas import recipes
from convatlas.errors import UsageError, UserError
from convatlas.training import run as runs
from convatlas.training.resolve import resolve_run

CPU = torch.device("cpu")


def test_names_become_records_at_once_and_the_record_is_complete_once_data_is_seen() -> None:
    run, dataset = resolve_run(ca.Run(model="resnet20_cifar", data="digits", recipe="resnet_cifar"), CPU)
    assert run.model.arguments == {
        "num_classes": 10, "in_chans": 1, "width": 1.0, "image_size": (32, 32), "dropout": 0.0, "shortcut": "A",
    }  # fmt: skip
    assert run.precision in ("fp32", "bf16")
    assert run.content.classes == dataset.classes
    assert run.content.counts == {"train": 1438, "val": 179, "test": 180}
    assert run.recipe.optimizer.lr == 0.1
    assert run.save_every == run.steps_per_epoch == 11


def test_completion_is_idempotent_and_survives_the_file() -> None:
    run, _ = resolve_run(ca.Run(model="lenet5", data="digits"), CPU)
    again, _ = resolve_run(run, CPU)
    assert again == run
    stored = runs.read_run_file(runs.serialize_run_file(runs.RunFile(run=run, environment={"threads": 2})), "run.json")
    assert stored.run == run
    assert stored.run.id == run.id


def test_the_id_follows_every_field() -> None:
    first = ca.Run(model="lenet5", data="digits")
    others = [
        first.replace(seed=1),
        first.replace(recipe=first.recipe.replace(batch=64)),
        ca.Run(model="lenet5", data="mnist"),
        first.replace(log_every=51),
    ]
    assert len({first.id, *(run.id for run in others)}) == 5


@pytest.mark.parametrize("change", ["recipe.batch", "recipe.micro_batch", "evaluation_batch", "log_every", "save_every"])
def test_counts_that_are_none_are_refused_with_the_field(change: str) -> None:
    run, field = ca.Run(model="lenet5", data="digits"), change.removeprefix("recipe.")
    part = {field: -1 if field == "save_every" else 0}
    run = run.replace(recipe=run.recipe.replace(**part)) if change.startswith("recipe.") else run.replace(**part)
    with pytest.raises(UsageError, match=rf"^{change} should be [01] or more, not (0|-1): .*--set {change}=N"):
        resolve_run(run, torch.device("cpu"))


def test_digits_are_not_mirrored_and_that_is_said() -> None:
    run, _ = resolve_run(ca.Run(model="resnet20_cifar", data="digits"), CPU)
    assert [type(a).__name__ for a in run.recipe.augment] == ["PadCrop"]
    assert any("mirrored" in note for note in run.notes)


@pytest.mark.parametrize("argument", ["num_classes", "in_chans"])
def test_a_count_that_disagrees_with_the_data_is_refused(argument: str) -> None:
    from convatlas import models

    with pytest.raises(UsageError, match=rf"{argument} is 7 but digits has"):
        resolve_run(ca.Run(model=models.get_architecture("lenet5", **{argument: 7}), data="digits"), CPU)  # type: ignore[arg-type]


def test_data_that_has_changed_is_not_trained_on() -> None:
    run, _ = resolve_run(ca.Run(model="lenet5", data="digits"), CPU)
    assert run.data.content is not None
    other = run.replace(data=run.data.replace(content=run.data.content.replace(digest="0" * 64)))
    with pytest.raises(UserError, match="content has changed"):
        resolve_run(other, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"seed": 0', '"seed": "zero"'), r"Expected `int`, got `str` - at `\$.run.seed`"),
        (('"seed": 0', '"sead": 0'), "unknown field `sead`"),
        (('"format": 1', '"format": 99'), "format version 99: this ConvAtlas reads version 1"),
        (('"type": "SGD"', '"type": "SGDD"'), "Invalid value 'SGDD'"),
    ],
)
def test_a_run_file_that_does_not_fit_is_refused_with_the_field(change: tuple[str, str], message: str) -> None:
    text = runs.serialize_run_file(runs.RunFile(run=ca.Run(model="lenet5", data="digits"), environment={})).decode()
    assert change[0] in text
    with pytest.raises(UsageError, match=message):
        runs.read_run_file(text.replace(*change).encode(), "run.json")


def test_recipes_are_the_papers() -> None:
    from convatlas.models import get_entry

    lenet, resnet = recipes.get_recipe("paper", get_entry("lenet5")), recipes.get_recipe("paper", get_entry("resnet56_cifar"))
    assert (lenet.batch, lenet.budget) == (1, recipes.Epochs(20))
    assert any("Levenberg" in what for what in lenet.substituted)
    assert (resnet.batch, resnet.budget.steps(999)) == (128, 64_000)
    assert recipes.get_recipe("paper", get_entry("resnet110_cifar")) != resnet
    assert recipes.get_recipe("quick", get_entry("lenet5")).loss == lenet.loss
    with pytest.raises(UsageError, match="the nearest is 'resnet_cifar'"):
        recipes.get_recipe("resnet_cfar", get_entry("lenet5"))


def test_the_default_folder_names_network_data_and_run() -> None:
    from convatlas.training.train import default_folder

    run = ca.Run(model="lenet5", data="folder:/some/where/cats/")
    assert default_folder(run) == Path("runs") / f"lenet5-cats-{run.id[:8]}"
