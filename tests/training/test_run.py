"""Runs, their files, and what is filled in before they start."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import convatlas as ca
from convatlas import models, recipes
from convatlas.errors import UsageError, UserError
from convatlas.storage.records import override
from convatlas.training.resolve import resolve_run
from convatlas.training.run import FORMAT, RunFile, read_run_file, serialize_run_file
from convatlas.training.train import default_folder

CPU = torch.device("cpu")


def lenet_run(**fields: Any) -> ca.Run:
    return ca.Run(model="lenet5", data="digits", **fields)


def run_file(run: ca.Run | None = None) -> RunFile:
    return RunFile(run=run or lenet_run(), environment={"threads": 2, "torch": "2", "compile": False})


def handwritten(run: ca.Run) -> dict[str, Any]:
    """The document of a `run.json` without `id` and `sha256`, as a person writes one."""
    document = json.loads(serialize_run_file(RunFile(run=run)))
    return {"run": document["run"]}


def with_sha256(document: dict[str, Any]) -> bytes:
    """A `run.json` with a valid checksum, whatever else it holds."""
    data = json.dumps(document | {"sha256": "0" * 64}).encode()
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode())


# Resolving


def test_names_become_records_that_the_data_completes() -> None:
    resolved = resolve_run(ca.Run(model="resnet20_cifar", data="digits", recipe="resnet_cifar"), CPU)
    run = resolved.run
    assert run.model.arguments == {
        "num_classes": 10,
        "in_chans": 1,
        "width": 1.0,
        "image_size": (32, 32),
        "dropout": 0.0,
        "shortcut": "A",
    }
    assert run.precision in ("fp32", "bf16")
    assert run.content.classes == resolved.dataset.classes
    assert run.content.counts == {"train": 1438, "val": 179, "test": 180}
    assert run.recipe.optimizer.lr == 0.1
    assert run.save_every == run.steps_per_epoch == 11


def test_a_resolved_run_holds_its_network_on_meta_tensors() -> None:
    resolved = resolve_run(lenet_run(), CPU)
    assert resolved.network.architecture == resolved.run.model
    assert {parameter.device.type for parameter in resolved.network.parameters()} == {"meta"}
    assert resolved.pretrained is None


def test_resolving_again_changes_nothing_even_after_the_file() -> None:
    run = resolve_run(lenet_run(), CPU).run
    assert resolve_run(run, CPU).run == run
    stored = read_run_file(serialize_run_file(run_file(run)), "run.json").run
    assert stored == run
    assert resolve_run(stored, CPU).run.id == run.id


def test_the_id_follows_every_field() -> None:
    first = lenet_run()
    others = [
        first.replace(seed=1),
        first.replace(recipe=first.recipe.replace(batch=64)),
        ca.Run(model="lenet5", data="mnist"),
        first.replace(log_every=51),
    ]
    assert len({first.id, *(run.id for run in others)}) == 5


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("recipe.batch", 0),
        ("recipe.micro_batch", 0),
        ("evaluation_batch", 0),
        ("log_every", 0),
        ("save_every", -1),
    ],
)
def test_a_count_that_is_too_small_is_refused_by_its_path(path: str, value: int) -> None:
    run = lenet_run()
    if path.startswith("recipe."):
        run = run.replace(recipe=run.recipe.replace(**{path.removeprefix("recipe."): value}))
    else:
        run = run.replace(**{path: value})
    message = rf"^{path} should be {value + 1} to 1,000,.*, not {value}: .*--set {path}=N"
    with pytest.raises(UsageError, match=message):
        resolve_run(run, CPU)


def test_digits_are_not_mirrored_and_a_note_says_so() -> None:
    run = resolve_run(ca.Run(model="resnet20_cifar", data="digits"), CPU).run
    assert [type(augmentation).__name__ for augmentation in run.recipe.augment] == ["RandomCrop"]
    assert any("mirrored" in note for note in run.notes)


@pytest.mark.parametrize("argument", ["num_classes", "in_chans"])
def test_an_argument_that_disagrees_with_the_data_is_refused(argument: str) -> None:
    arguments: dict[str, Any] = {argument: 7}
    run = ca.Run(model=models.get_architecture("lenet5", **arguments), data="digits")
    with pytest.raises(UsageError, match=rf"{argument} is 7 but digits has"):
        resolve_run(run, CPU)


def test_an_explicit_argument_holds_though_it_is_the_papers() -> None:
    """Digits are grey and of 10 classes; the paper's resnet18 is for RGB images of 1,000."""
    run = ca.Run(model="resnet18", data="digits")
    assert resolve_run(run, CPU).run.model.arguments["num_classes"] == 10
    rgb = resolve_run(override(run, "model.arguments.in_chans=3"), CPU)
    assert rgb.run.model.arguments["in_chans"] == rgb.run.content.preprocessing.channels == 3
    assert any("grey images are decoded as RGB" in note for note in rgb.run.notes)
    architecture = models.get_architecture("resnet18", num_classes=1000)
    for explicit in (
        override(run, "model.arguments.num_classes=1000"),
        ca.Run(model=architecture, data="digits"),
    ):
        with pytest.raises(UsageError, match="num_classes is 1000 but digits has 10 classes"):
            resolve_run(explicit, CPU)
    with_heads = override(ca.Run(model="googlenet", data="digits"), "model.arguments.aux=true")
    with pytest.raises(UsageError, match=r"aux is true but the recipe quick gives .* no weight"):
        resolve_run(with_heads, CPU)


def test_data_that_has_changed_is_refused() -> None:
    run = resolve_run(lenet_run(), CPU).run
    changed = run.replace(data=run.data.replace(content=run.content.replace(sha256="0" * 64)))
    with pytest.raises(UserError, match="content has changed"):
        resolve_run(changed, CPU)


# run.json


def test_a_policy_for_conflicts_changes_the_id_and_its_absence_does_not() -> None:
    run = lenet_run()
    assert set(handwritten(run)["run"]["data"]) == {"name"}  # as before the policy existed
    dropping = override(run, "data.conflicts=drop")
    assert dropping.id != run.id
    assert dropping.replace(data=run.data) == run
    assert read_run_file(serialize_run_file(RunFile(run=dropping)), "run.json").run == dropping
    with pytest.raises(UsageError, match="conflicts"):
        override(run, "data.conflicts=kep")


def test_a_run_file_has_the_same_bytes_whenever_it_is_written() -> None:
    written = serialize_run_file(run_file())
    assert serialize_run_file(run_file()) == written
    reordered = dict(reversed(dict(run_file().environment).items()))
    assert serialize_run_file(RunFile(run=lenet_run(), environment=reordered)) == written
    assert serialize_run_file(read_run_file(written, "run.json")) == written


def test_a_run_file_holds_its_id_and_the_hash_of_its_other_bytes() -> None:
    written = serialize_run_file(run_file())
    document = json.loads(written)
    assert document["id"] == lenet_run().id
    zeroed = written.replace(document["sha256"].encode(), b"0" * 64)
    assert document["sha256"] == hashlib.sha256(zeroed).hexdigest()


def test_a_run_file_in_which_a_bit_flipped_is_refused() -> None:
    written = serialize_run_file(run_file())
    for bit in range(0, 8 * len(written), 3):  # in each byte two or three of its bits
        damaged = bytearray(written)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UsageError, match=r"^run\.json"):
            read_run_file(bytes(damaged), "run.json")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"seed": 0', b'"seed": 1'),
        (b'"threads": 2', b'"threads": 3'),
        (b'"quick"', b'"slow"'),
        (b"\n}", b"\n}\n"),
        (b'  "run"', b'   "run"'),
    ],
)
def test_a_run_file_changed_after_it_was_written_is_refused(before: bytes, after: bytes) -> None:
    written = serialize_run_file(run_file())
    changed = after.join(written.rsplit(before, 1))
    assert changed != written
    message = r"^run\.json was changed after ConvAtlas wrote it: restore it, or remove its 'id' and 'sha256'"
    with pytest.raises(UsageError, match=message):
        read_run_file(changed, "run.json")


@pytest.mark.parametrize("field", ["id", "sha256"])
def test_a_run_file_that_has_lost_its_id_or_hash_alone_is_refused(field: str) -> None:
    document = json.loads(serialize_run_file(run_file()))
    del document[field]
    with pytest.raises(UsageError, match="was changed after ConvAtlas wrote it"):
        read_run_file(json.dumps(document).encode(), "run.json")


def test_a_run_file_without_id_and_hash_is_a_new_run() -> None:
    document = handwritten(lenet_run(seed=3))
    stored = read_run_file(json.dumps(document).encode(), "run.json")
    assert stored == RunFile(run=lenet_run(seed=3))


def test_a_run_file_with_the_id_of_another_run_is_refused() -> None:
    document = handwritten(lenet_run()) | {"environment": {}}
    assert read_run_file(with_sha256(document | {"id": lenet_run().id}), "run.json").run == lenet_run()
    message = r"^run\.json has the id of another run: remove its 'id' and 'sha256' to start it as a new run"
    with pytest.raises(UsageError, match=message):
        read_run_file(with_sha256(document | {"id": lenet_run(seed=1).id}), "run.json")


def test_a_run_file_of_format_1_is_refused_with_what_to_do() -> None:
    document = handwritten(lenet_run())
    document["run"]["format"] = 1
    message = (
        "run.json has format version 1, which ConvAtlas 0.1 wrote: this ConvAtlas reads version 2; train "
        "again, or continue with the version that wrote it"
    )
    assert FORMAT == 2
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        read_run_file(json.dumps(document).encode(), "run.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"seed": 0', '"seed": "zero"'), r"Expected `int`, got `str` - at `\$.run.seed`"),
        (('"seed": 0', '"sead": 0'), "unknown field `sead`"),
        (('"format": 2', '"format": 99'), "format version 99: this ConvAtlas reads version 2"),
        (('"format": 2', '"format": "\\u001b[2J"'), r"format version \\x1b"),
        (('"type": "SGD"', '"type": "SGDD"'), "Invalid value 'SGDD'"),
    ],
)
def test_a_run_file_that_does_not_fit_is_refused_by_its_field(change: tuple[str, str], message: str) -> None:
    text = json.dumps(handwritten(lenet_run()))
    assert change[0] in text
    with pytest.raises(UsageError, match=message):
        read_run_file(text.replace(*change).encode(), "run.json")


# Recipes and folders


def test_papers_recipes_have_the_settings_that_the_papers_state() -> None:
    lenet = recipes.get_recipe("paper", models.get_entry("lenet5"))
    resnet = recipes.get_recipe("paper", models.get_entry("resnet56_cifar"))
    assert (lenet.batch, lenet.budget) == (1, recipes.Epochs(20))
    assert any("Levenberg" in method for method in lenet.substituted)
    assert (resnet.batch, resnet.budget.steps(999)) == (128, 64_000)
    assert recipes.get_recipe("paper", models.get_entry("resnet110_cifar")) != resnet
    assert recipes.get_recipe("quick", models.get_entry("lenet5")).loss == lenet.loss
    with pytest.raises(UsageError, match="the nearest is 'resnet_cifar'"):
        recipes.get_recipe("resnet_cfar", models.get_entry("lenet5"))


def test_the_default_folder_names_network_data_and_run() -> None:
    run = ca.Run(model="lenet5", data="folder:/some/where/cats/")
    assert default_folder(run) == Path("runs") / f"lenet5-cats-{run.id[:8]}"


def test_a_run_prints_as_one_line() -> None:
    run = ca.Run(model="resnet20_cifar", data="digits", seed=3)
    assert repr(run) == f"<Run {run.id[:8]}: resnet20_cifar on digits, recipe quick, seed 3>"
