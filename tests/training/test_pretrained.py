"""Trainings that begin from weights: of ours or another library's, with their head or a new one, frozen in parts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import small_run

import convatlas as ca
from convatlas import models
from convatlas.cli.main import main
from convatlas.errors import UsageError, UserError
from convatlas.storage import checked_safetensors
from convatlas.training.pretrained import Initial, load_pretrained
from convatlas.training.resolve import resolve_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-20 at a quarter width, on digits."""
    return ca.train(tiny(), out=tmp_path_factory.mktemp("donor") / "run").out


def tiny(**changes: Any) -> ca.Run:
    model = changes.pop("model", models.get_architecture("resnet20_cifar", width=0.25, image_size=16))
    run = ca.Run(model=model, data=changes.pop("data", "digits"))
    return run.replace(recipe=run.recipe.replace(budget=run.recipe.budget.replace(count=1)), precision="fp32", **changes)


def stored(out: Path) -> dict[str, torch.Tensor]:
    return checked_safetensors.read_checked(out / "model.safetensors")[0]


def folder(path: Path, names: tuple[str, ...]) -> str:
    """Grey photographs of as many classes, as the digits are grey."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 5), ("test", 5)):
        for value, name in enumerate(names):
            (path / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(40 * value, 40 * value + 60, size=(16, 16), dtype=np.uint8)).save(
                    path / part / name / f"{i}.png"
                )
    return f"folder:{path}"


def test_a_training_of_no_steps_would_answer_as_its_weights_do(donor: Path) -> None:
    run, dataset = resolve_run(tiny(initial=Initial(file=str(donor))), CPU)
    assert run.initial is not None
    assert (run.initial.head, run.initial.standardiser, len(run.initial.sha256)) == ("kept", "theirs", 64)
    model = models.build(run.model)
    load_pretrained(run.initial, model, dataset.classes)
    assert all(torch.equal(t, stored(donor)[name]) for name, t in model.state_dict().items())


def test_other_classes_get_a_new_head_on_the_same_body(donor: Path, tmp_path: Path) -> None:
    data = folder(tmp_path, ("dim", "bright", "brightest"))
    run, dataset = resolve_run(tiny(data=data, initial=Initial(file=str(donor))), CPU)
    assert run.initial is not None
    assert run.initial.head == "new"
    assert any("with a new head" in note for note in run.notes)
    torch.manual_seed(0)
    model = models.build(run.model)
    fresh = {name: t.clone() for name, t in model.state_dict().items()}
    load_pretrained(run.initial, model, dataset.classes)
    for name, t in model.state_dict().items():
        assert torch.equal(t, fresh[name] if name.startswith(model.classifier) else stored(donor)[name])


def test_a_head_that_is_kept_is_put_in_the_order_of_the_classes(donor: Path, tmp_path: Path) -> None:
    data = folder(tmp_path, ("7", "3"))
    run, dataset = resolve_run(tiny(data=data, initial=Initial(file=str(donor), head="kept")), CPU)
    assert run.initial is not None
    model = models.build(run.model)
    load_pretrained(run.initial, model, dataset.classes)
    rows = [int(name) for name in dataset.classes]  # the digits' classes bear their values
    assert torch.equal(model.state_dict()[f"{model.classifier}.weight"], stored(donor)[f"{model.classifier}.weight"][rows])


def test_classes_that_a_kept_head_lacks_are_named_before_anything_is_trained(donor: Path, tmp_path: Path) -> None:
    data = folder(tmp_path, ("3", "unheard-of"))
    with pytest.raises(UsageError, match=r"has no class 'unheard-of' \(1 of 2 are not among its 10\): .*initial.head=new"):
        resolve_run(tiny(data=data, initial=Initial(file=str(donor), head="kept")), CPU)


def test_frozen_parts_keep_their_weights_and_statistics_and_the_others_learn(donor: Path, tmp_path: Path) -> None:
    frozen = ("conv1", "conv2_x")
    out = ca.train(tiny(initial=Initial(file=str(donor)), frozen=frozen), out=tmp_path / "run").out
    before, after = stored(donor), stored(out)
    for name, t in after.items():
        if name.startswith(tuple(f"{path}." for path in frozen)):
            assert torch.equal(t, before[name]), name
    assert any(not torch.equal(t, before[name]) for name, t in after.items() if "conv3_x" in name and name.endswith("weight"))
    assert any(not torch.equal(t, before[name]) for name, t in after.items() if "conv3_x" in name and name.endswith("running_mean"))


def test_frozen_statistics_stay_while_weights_learn(donor: Path, tmp_path: Path) -> None:
    run = tiny(initial=Initial(file=str(donor)), frozen_statistics=True)
    slow = run.replace(
        recipe=run.recipe.replace(optimizer=run.recipe.optimizer.replace(lr=1e-5))
    )  # the donor's statistics are those of one epoch
    out = ca.train(slow, out=tmp_path / "run").out
    before, after = stored(donor), stored(out)
    running = [name for name in after if name.endswith(("running_mean", "running_var"))]
    assert running
    assert all(torch.equal(after[name], before[name]) for name in running)
    learned = [name for name in after if name.endswith("conv.weight")]
    assert learned
    assert not any(torch.equal(after[name], before[name]) for name in learned)


def test_another_librarys_file_begins_a_training(tmp_path: Path) -> None:
    model = models.create_model("resnet20_cifar", num_classes=4, in_chans=1, image_size=16)
    torch.save(model.state_dict(), tmp_path / "foreign.pth")
    run, dataset = resolve_run(tiny(model="resnet20_cifar", initial=Initial(file=str(tmp_path / "foreign.pth"))), CPU)
    assert run.initial is not None
    assert run.initial.head == "new"
    other = models.build(run.model)
    load_pretrained(run.initial, other, dataset.classes)
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in other.state_dict().items() if not name.startswith(other.classifier))


def test_weights_that_have_changed_since_are_refused(donor: Path, tmp_path: Path) -> None:
    run, dataset = resolve_run(tiny(initial=Initial(file=str(donor))), CPU)
    assert run.initial is not None
    other = ca.train(tiny(seed=1), out=tmp_path / "other").out
    with pytest.raises(UserError, match="is not the file that this run began from"):
        load_pretrained(run.initial.replace(file=str(other)), models.build(run.model), dataset.classes)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (("resnet32_cifar", {}), "holds resnet20_cifar: it cannot begin resnet32_cifar"),
        (("resnet20_cifar", {"width": 0.5, "image_size": 16}), "width=0.25, which computes something else"),
        (("resnet20_cifar", {"width": 0.25, "image_size": 16, "shortcut": "B"}), "shortcut='A'"),
    ],
)
def test_weights_of_another_network_are_refused_in_one_sentence(donor: Path, model: tuple[str, dict[str, Any]], message: str) -> None:
    name, arguments = model
    with pytest.raises(UserError, match=message):
        resolve_run(tiny(model=models.get_architecture(name, **arguments), initial=Initial(file=str(donor))), CPU)


def test_the_command_takes_the_networks_width_from_the_weights(donor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "resnet20_cifar", "--data", "digits", "--recipe", "finetune", "--epochs", "0.2", "--weights", str(donor)]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert "with their own head" in capsys.readouterr().out
    run = json.loads((tmp_path / "run" / "run.json").read_text())["run"]
    assert run["model"]["arguments"]["width"] == 0.25
    assert main([*words, "--out", str(tmp_path / "no"), "--weights", str(tmp_path / "nothing")]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_a_module_to_be_frozen_that_does_not_exist_is_named() -> None:
    run = small_run().replace(frozen=("C7",))
    with pytest.raises(UsageError, match="module of lenet5 to be frozen 'C7'"):
        resolve_run(run, CPU)
