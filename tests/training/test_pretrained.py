"""Trainings that start from weights: of ConvAtlas or another library, with their head or a new one, frozen
in parts."""

import json
from argparse import Namespace
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
from convatlas.classifier import ClassifierMetadata, model_file
from convatlas.cli.main import main
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.errors import UsageError, UserError
from convatlas.interop.load_weights import to_library_state_dict
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


def save_library_weights(file: Path, **arguments: Any) -> Network:
    """Another library's file for ResNet-20 at a quarter of its width, inside a trainer's checkpoint."""
    arguments = {"width": 0.25, "shortcut": "B", "num_classes": 10, **arguments}
    model = models.create_model("resnet20_cifar", **arguments)
    state = {f"module.{key}": value for key, value in to_library_state_dict(model, "pytorchcv").items()}
    torch.save({"state_dict": state, "best_acc1": torch.tensor(9.0), "args": Namespace(lr=0.1)}, file)
    return model


RESNET = {"width": 0.25, "shortcut": "B", "image_size": 16}


def test_a_librarys_file_starts_a_network_of_the_runs_own_arguments(tmp_path: Path) -> None:
    trained = save_library_weights(tmp_path / "w.pth", in_chans=1)
    resolved = resolve_from(tmp_path / "w.pth", arguments=RESNET)
    assert start_of(resolved).head == "keep"
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in start_model(resolved).items())
    notes = " / ".join(resolved.run.notes)
    assert "the weights are state_dict of the file, under pytorchcv's names" in notes
    assert "ignored in the file: best_acc1" in notes


def test_a_file_without_a_head_starts_a_run_with_a_new_one(tmp_path: Path) -> None:
    trained = save_library_weights(tmp_path / "w.pth", in_chans=1)
    state = trained.state_dict()
    del state["fc.weight"], state["fc.bias"]
    torch.save({f"backbone.{key}": value for key, value in state.items()}, tmp_path / "w.pth")
    resolved = resolve_from(tmp_path / "w.pth", arguments=RESNET)
    assert start_of(resolved).head == "reinit"
    weights = start_model(resolved)
    assert all(torch.equal(weights[key], value) for key, value in state.items())
    with pytest.raises(UsageError, match=r"has no head for resnet20_cifar: .*pretrained\.head=reinit"):
        resolve_from(tmp_path / "w.pth", arguments=RESNET, head="keep")


def test_vggs_convolutions_start_a_run(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"width": 0.05, "image_size": 32}
    trained = models.create_model("vgg11", in_chans=1, **arguments)
    convolutions = {key: value for key, value in trained.state_dict().items() if key.startswith("conv")}
    torch.save(convolutions, tmp_path / "w.pth")
    start = Pretrained(file=str(tmp_path / "w.pth"))
    resolved = resolve_run(one_epoch_run(network="vgg11", arguments=arguments, pretrained=start), CPU)
    weights = start_model(resolved)
    assert all(torch.equal(weights[key], value) for key, value in convolutions.items())


def test_a_misfit_is_described_by_its_nearest_fit(tmp_path: Path) -> None:
    trained = save_library_weights(tmp_path / "w.pth", in_chans=1)
    state = trained.state_dict()
    del state["conv2_x.0.function.conv1.conv.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"1 missing: conv2_x\.0\.function\.conv1\.conv\.weight"):
        resolve_from(tmp_path / "w.pth", arguments=RESNET)


@pytest.mark.parametrize("kind", ["library", "run"])
def test_weights_of_rgb_images_are_summed_over_channels_for_grey_ones(kind: str, tmp_path: Path) -> None:
    trained = save_library_weights(tmp_path / "w.pth")
    weights = tmp_path / "w.pth"
    if kind == "run":
        write_rgb_classifier(tmp_path / "model.safetensors", trained)
        weights = tmp_path / "model.safetensors"
    resolved = resolve_from(weights, arguments=RESNET)
    assert resolved.run.model.arguments["in_chans"] == 1
    assert any("summed over their 3 channels" in note for note in resolved.run.notes)
    model = models.build(resolved.run.model).eval()
    start_model(resolved, model)
    grey = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = trained.eval()(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(model(grey), expected, rtol=1e-4, atol=1e-4)
    assert resolved.pretrained is not None
    assert resolved.pretrained.normalizer.mean.shape == (1, 1, 1)


def write_rgb_classifier(file: Path, model: Network) -> None:
    """A classifier's file of these weights, for RGB images."""
    assert model.architecture is not None
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.full((3, 1, 1), 0.25)
    metadata = ClassifierMetadata(
        format=2,
        network=model.architecture,
        classes=tuple(map(str, range(10))),
        preprocessing=fixed_size_preprocessing(3, (16, 16), (16, 16)),
        precision="fp32",
        batch=32,
        provenance={},
        metrics={},
    )
    model_file.write_model_file(file, metadata, model, Normalizer(mean, std))


@pytest.mark.parametrize("data", ["digits", "folder"])
def test_an_explicit_number_of_channels_holds_and_grey_images_are_decoded_as_rgb(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = save_library_weights(tmp_path / "rgb.pth")
    name = "digits" if data == "digits" else make_photos(tmp_path / "photos", ("dim", "bright"))
    out = str(tmp_path / "run")
    command = ["train", "resnet20_cifar", "--data", name, "--recipe", "finetune", "--epochs", "0.2"]
    settings = ["model.arguments.in_chans=3", "model.arguments.width=0.25", 'model.arguments.shortcut="B"']
    settings += ["model.arguments.image_size=16", "recipe.optimizer.lr=0"]
    assert main([*command, "--weights", str(tmp_path / "rgb.pth"), "--out", out, "--set", *settings]) == 0
    assert "the grey images are decoded as RGB: model.arguments.in_chans is 3" in capsys.readouterr().out
    saved = saved_weights(tmp_path / "run")
    assert torch.equal(saved["conv1.conv.weight"], trained.state_dict()["conv1.conv.weight"])
    assert main(["eval", out, "--json"]) == 0
    assert main(["train", "--resume", out]) == 0
