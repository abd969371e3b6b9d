"""Trainings that start from weights: of ConvAtlas or another library, with their head or a new one, frozen
in parts."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_runs import small_run
from PIL import Image
from torch import Tensor

import convatlas as ca
from convatlas import models
from convatlas.classifier import model_file
from convatlas.cli.main import main
from convatlas.errors import UsageError, UserError
from convatlas.models import Network
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS
from convatlas.storage import checked_safetensors
from convatlas.training import pretrained
from convatlas.training.options import run_from_options
from convatlas.training.pretrained import load_pretrained
from convatlas.training.resolve import ResolvedRun, resolve_run
from convatlas.training.run import Pretrained
from convatlas.training.train import build_objective

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run whose weights others start from: ResNet-20 at a quarter of its width, on digits."""
    return ca.train(one_epoch_run(), out=tmp_path_factory.mktemp("donor") / "run").out


def one_epoch_run(
    data: str = "digits", network: str = "resnet20_cifar", arguments: Any = None, **fields: Any
) -> ca.Run:
    arguments = {"width": 0.25, "image_size": 16} if arguments is None else arguments
    run = ca.Run(model=models.get_architecture(network, **arguments), data=data)
    recipe = run.recipe.replace(budget=run.recipe.budget.replace(count=1))
    return run.replace(recipe=recipe, precision="fp32", **fields)


def resolve_from(weights: Path, data: str = "digits", arguments: Any = None, **fields: Any) -> ResolvedRun:
    """The resolved run that starts from `weights`; `fields` are those of `Pretrained`."""
    start = Pretrained(file=str(weights), **fields)
    return resolve_run(one_epoch_run(data, arguments=arguments, pretrained=start), CPU)


def start_of(resolved: ResolvedRun) -> Pretrained:
    assert resolved.run.pretrained is not None
    return resolved.run.pretrained


def start_model(resolved: ResolvedRun, model: Network | None = None) -> dict[str, Tensor]:
    """The weights of a new model after those of the file were copied into it."""
    assert resolved.pretrained is not None
    model = model or models.build(resolved.run.model)
    load_pretrained(start_of(resolved), resolved.pretrained, model, resolved.dataset.classes)
    return model.state_dict()


def saved_weights(out: Path) -> dict[str, Tensor]:
    return checked_safetensors.read_checked(out / "model.safetensors")[0]


def make_photos(folder: Path, classes: tuple[str, ...]) -> str:
    """Write grey photographs of these classes (the digits are grey), and return the data set's name."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 5), ("test", 5)):
        for number, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(40 * number, 40 * number + 60, size=(16, 16), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return f"folder:{folder}"


def test_a_training_starts_with_exactly_the_weights_of_the_file(donor: Path) -> None:
    resolved = resolve_from(donor)
    start = start_of(resolved)
    assert (start.head, start.normalization, len(start.sha256)) == ("keep", "pretrained", 64)
    expected = saved_weights(donor)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in start_model(resolved).items())


def test_other_classes_get_a_new_head_on_the_same_body(donor: Path, tmp_path: Path) -> None:
    resolved = resolve_from(donor, make_photos(tmp_path, ("dim", "bright", "brightest")))
    assert start_of(resolved).head == "reinit"
    assert any("with a new head" in note for note in resolved.run.notes)
    torch.manual_seed(0)
    model = models.build(resolved.run.model)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = saved_weights(donor)
    for name, tensor in start_model(resolved, model).items():
        is_head = name.startswith(f"{model.classifier}.")
        assert torch.equal(tensor, initial[name] if is_head else expected[name]), name


def test_a_kept_head_is_in_the_order_of_the_classes(donor: Path, tmp_path: Path) -> None:
    resolved = resolve_from(donor, make_photos(tmp_path, ("7", "3")), head="keep")
    rows = [int(name) for name in resolved.dataset.classes]  # the classes of digits are named by their values
    weight = f"{resolved.network.classifier}.weight"
    assert torch.equal(start_model(resolved)[weight], saved_weights(donor)[weight][rows])


def test_a_class_that_a_kept_head_lacks_is_named(donor: Path, tmp_path: Path) -> None:
    data = make_photos(tmp_path, ("3", "unheard-of"))
    message = r"has no class 'unheard-of' \(1 of 2 are not among its 10\): .*pretrained.head=reinit"
    with pytest.raises(UsageError, match=message):
        resolve_from(donor, data, head="keep")


@pytest.mark.parametrize("normalization", ["auto", "pretrained", "dataset"])
def test_pixels_are_normalised_as_for_the_weights_or_by_the_data(
    normalization: str, donor: Path, tmp_path: Path
) -> None:
    resolved = resolve_from(donor, make_photos(tmp_path, ("dim", "bright")), normalization=normalization)
    assert start_of(resolved).normalization == ("dataset" if normalization == "dataset" else "pretrained")
    mean = build_objective(resolved, SINGLE_PROCESS).normalizer.mean
    if normalization == "dataset":
        images = resolved.dataset.splits["train"].images
        expected = resolved.run.recipe.normalize.fit(images, resolved.run.content.preprocessing).mean
    else:
        expected = saved_weights(donor)["preprocessing.mean"]
    assert torch.equal(mean, expected)
    other = saved_weights(donor)["preprocessing.mean"]
    assert torch.equal(mean, other) == (normalization != "dataset")


def test_frozen_modules_keep_weights_and_statistics_and_others_learn(donor: Path, tmp_path: Path) -> None:
    frozen = ("conv1", "conv2_x")
    run = one_epoch_run(pretrained=Pretrained(file=str(donor)), frozen=frozen)
    after = saved_weights(ca.train(run, out=tmp_path / "run").out)
    before = saved_weights(donor)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert not [name for name in changed if name.startswith(tuple(f"{path}." for path in frozen))]
    assert any("conv3_x" in name and name.endswith("weight") for name in changed)
    assert any("conv3_x" in name and name.endswith("running_mean") for name in changed)


def test_frozen_statistics_stay_while_weights_learn(donor: Path, tmp_path: Path) -> None:
    run = one_epoch_run(pretrained=Pretrained(file=str(donor)), frozen_statistics=True)
    # a small rate: the donor's statistics are those of one epoch
    recipe = run.recipe.replace(optimizer=run.recipe.optimizer.replace(lr=1e-5))
    after = saved_weights(ca.train(run.replace(recipe=recipe), out=tmp_path / "run").out)
    before = saved_weights(donor)
    statistics = [name for name in after if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(torch.equal(after[name], before[name]) for name in statistics)
    learned = [name for name in after if name.endswith("conv.weight")]
    assert learned
    assert not any(torch.equal(after[name], before[name]) for name in learned)


def test_a_training_starts_from_another_librarys_file(tmp_path: Path) -> None:
    library_model = models.create_model("resnet20_cifar", num_classes=4, in_chans=1, image_size=16)
    expected = library_model.state_dict()
    torch.save(expected, tmp_path / "foreign.pth")
    resolved = resolve_from(tmp_path / "foreign.pth", arguments={})
    assert start_of(resolved).head == "reinit"
    weights = start_model(resolved)
    body = [name for name in weights if not name.startswith(f"{library_model.classifier}.")]
    assert body
    assert all(torch.equal(weights[name], expected[name]) for name in body)


def test_weights_that_have_changed_since_the_run_started_are_refused(donor: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes((donor / "model.safetensors").read_bytes())
    run = resolve_from(file).run
    assert resolve_run(run, CPU).run == run
    tensors, document = checked_safetensors.read_checked(file)
    weight = "conv1.conv.weight"
    checked_safetensors.write_checked(file, tensors | {weight: tensors[weight] + 1}, json.loads(document))
    message = "is not the file that this run started from: its SHA-256 differs; restore that file"
    with pytest.raises(UserError, match=message):
        resolve_run(run, CPU)


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        ("resnet32_cifar", {}, "holds resnet20_cifar: it cannot be the start of resnet32_cifar"),
        (
            "resnet20_cifar",
            {"width": 0.5, "image_size": 16},
            "width=0.25, which computes something else",
        ),
        ("resnet20_cifar", {"width": 0.25, "image_size": 16, "shortcut": "B"}, "shortcut='A'"),
    ],
)
def test_weights_of_another_network_are_refused(
    donor: Path, network: str, arguments: dict[str, Any], message: str
) -> None:
    start = Pretrained(file=str(donor))
    run = one_epoch_run(network=network, arguments=arguments, pretrained=start)
    with pytest.raises(UserError, match=message):
        resolve_run(run, CPU)


def test_the_command_takes_the_networks_width_from_the_weights(
    donor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "resnet20_cifar", "--data", "digits", "--recipe", "finetune", "--epochs", "0.2"]
    assert main([*arguments, "--weights", str(donor), "--out", str(tmp_path / "run")]) == 0
    assert "with their own head" in capsys.readouterr().out
    run = json.loads((tmp_path / "run" / "run.json").read_text())["run"]
    assert run["model"]["arguments"]["width"] == 0.25
    nowhere = ["--weights", str(tmp_path / "nothing"), "--out", str(tmp_path / "no")]
    assert main([*arguments, *nowhere]) == 1
    assert "cannot read" in capsys.readouterr().err


def count_calls(calls: Counter[str], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        calls[function.__name__] += 1
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize("kind", ["run", "foreign"])
def test_a_weight_file_is_read_once_and_hashed_once(
    kind: str, donor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = donor
    if kind == "foreign":
        weights = tmp_path / "foreign.pth"
        model = models.create_model("resnet20_cifar", num_classes=10, in_chans=1)
        torch.save(model.state_dict(), weights)
    calls: Counter[str] = Counter()
    for module, name in (
        (pretrained, "read_weight_file"),
        (pretrained, "weights_sha256"),
        (model_file, "read_checked"),
        (torch, "load"),
    ):
        monkeypatch.setattr(module, name, count_calls(calls, getattr(module, name)))
    run, file = run_from_options(
        "resnet20_cifar", "digits", recipe="finetune", epochs=0.05, weights=str(weights)
    )
    ca.train(run, out=tmp_path / "run", weights=file)
    assert (calls["read_weight_file"], calls["weights_sha256"]) == (1, 1)
    assert (calls["read_checked"], calls["load"]) == (kind == "run", kind == "foreign")


def test_a_module_to_freeze_that_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match="module of lenet5 to freeze 'C7'"):
        resolve_run(small_run().replace(frozen=("C7",)), CPU)
