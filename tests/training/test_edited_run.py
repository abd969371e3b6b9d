"""A run of an edited network: its record, its resume, its saved model and what is made of that."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.small_runs import small_run, weights_sha256
from torch import nn

import convatlas as ca
from convatlas import edits, models, training
from convatlas.classifier.model_file import read_model_file
from convatlas.cli.main import main
from convatlas.errors import UsageError, UserError
from convatlas.export.request import export_classifier
from convatlas.storage.checked_safetensors import read_checked, write_checked
from convatlas.training.options import run_from_options
from convatlas.training.run import read_run_file

EDITS = (edits.SwapPooling(to="max"), edits.SwapActivation(to="tanh"))


@pytest.fixture(scope="module")
def edited_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = small_run(epochs=1)
    out = tmp_path_factory.mktemp("edited") / "run"
    ca.train(run.replace(model=run.model.replace(edits=EDITS)), out=out)
    return out


def test_edits_stand_in_the_run_the_banner_the_report_and_the_model(
    edited_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    title = "SwapPooling(to=max) and SwapActivation(to=tanh)"
    run = read_run_file((edited_run / "run.json").read_bytes(), "run.json").run
    assert run.model.edits == EDITS
    assert f"lenet5 with {title} on digits" in repr(run)
    assert f"| lenet5, edition paper, with {title} |" in (edited_run / "report.md").read_text()
    classifier = ca.load(edited_run)
    assert classifier.metadata.network.edits == EDITS
    assert repr(classifier).startswith(f"<Classifier lenet5 with {title}: 10 classes")
    kinds = {type(layer) for layer in classifier.model.modules()}
    assert {nn.MaxPool2d, nn.Tanh} <= kinds
    assert main(["eval", str(edited_run), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["top1"] == classifier.metadata.metrics["test_top1"]


def test_a_resumed_run_has_the_bits_of_the_run_that_was_not_stopped(edited_run: Path, tmp_path: Path) -> None:
    resumed = tmp_path / "run"
    shutil.copytree(edited_run, resumed)
    checkpoints = sorted((resumed / "checkpoints").iterdir())
    assert len(checkpoints) > 1
    checkpoints[-1].unlink()
    (resumed / "model.safetensors").unlink()
    training.resume(resumed)
    assert weights_sha256(resumed) == weights_sha256(edited_run)


def test_a_network_that_computes_something_else_is_refused(edited_run: Path, tmp_path: Path) -> None:
    tensors, document = read_checked(edited_run / "model.safetensors")
    metadata = json.loads(document)
    assert len(metadata["fingerprint"]) == 64
    metadata["network"]["edits"][1]["to"] = "sigmoid"  # with the same weights
    write_checked(tmp_path / "model.safetensors", tensors, metadata)
    with pytest.raises(UserError, match="that computed something else than the one that is built now"):
        ca.load(tmp_path)


def test_edits_without_weights_may_come_after_training(edited_run: Path, tmp_path: Path) -> None:
    arguments = ["export", str(edited_run), "--to", "safetensors", "--out", str(tmp_path / "m.safetensors")]
    assert main([*arguments, "--edit", "SwapActivation(to=relu)", "RemoveDropout"]) == 0
    classifier = ca.load(tmp_path / "m.safetensors")
    added = (edits.SwapActivation(to="relu"), edits.RemoveDropout())
    assert classifier.metadata.network.edits == (*EDITS, *added)
    assert classifier.metadata.metrics == {}
    with pytest.raises(UsageError, match=r"SwapActivation\(to=prelu\) needs a C1.1.weight that no training"):
        export_classifier(edited_run, "onnx", tmp_path / "m.onnx", edits=[edits.SwapActivation(to="prelu")])


def test_an_edited_network_is_exported_and_agrees(edited_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    document = export_classifier(edited_run, "onnx", tmp_path / "m.onnx")
    assert document["difference"] < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        edits.SwapNorm(to="weight"),
        edits.SwapNorm(to="instance"),
        edits.SwapPooling(to="stride"),
        edits.RemoveNorm(),
        edits.NormAfterActivation(),
        edits.SwapActivation(to="hard_swish"),
    ],
    ids=str,
)
def test_a_graph_of_an_edited_network_agrees(change: edits.Edit) -> None:
    torch.manual_seed(0)
    model = models.create_model("resnet18", width=0.0625, num_classes=3, edits=[change]).eval()
    images = torch.randn(3, 3, 64, 64)
    infer = ca.inference.engine(model, example=images, name="eager")
    graph = torch.export.export(model, (images,)).module()
    with torch.no_grad():
        assert torch.allclose(graph(images), model(images), atol=1e-5)
        assert torch.allclose(infer(images), model(images), atol=1e-4)


def test_a_module_that_was_edited_by_hand_is_saved_with_its_edits(tmp_path: Path) -> None:
    network = models.create_model("resnet20_cifar", width=0.25, num_classes=2)
    edits.apply(network, [edits.SwapNorm(to="group", groups=4)])
    classifier = ca.Classifier.from_module(network, ["cat", "dog"], 32, mean=0.5, std=0.25)
    read = read_model_file(classifier.save(tmp_path / "model.safetensors"))
    assert read.metadata.network.edits == (edits.SwapNorm(to="group", groups=4),)
    assert all(a.equal(b) for a, b in zip(read.model.parameters(), network.parameters(), strict=True))


def test_weights_of_another_network_are_refused_by_its_edits(edited_run: Path) -> None:
    with pytest.raises(UserError, match=r"edits=\['SwapPooling\(to=max\)', 'SwapActivation\(to=tanh\)'\]"):
        ca.load_weights(models.create_model("lenet5", width=0.5), edited_run)
    options = run_from_options("lenet5", "digits", weights=str(edited_run))
    assert options.run.model.edits == EDITS


def test_edit_may_be_given_several_times_beside_set() -> None:
    options = run_from_options(
        "resnet20_cifar",
        "digits",
        edits=["SwapActivation(to=elu)", "RemoveNorm"],
        overrides=['model.edits=[{"type": "RemoveNorm"}]'],
    )
    assert options.run.model.edits == (edits.RemoveNorm(),)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--edit", "SwapActivation(to=scaled_tanh)"],
            "touches nothing, since every activation is scaled_tanh",
        ),
        (["--edit", "SwapActivtion(to=relu)"], "the nearest is 'SwapActivation'"),
        (["--set", 'model.edits=[{"type": "SwapNorm"}]'], "missing required field `to`"),
        (["--edit"], "--edit needs a value, for example --edit 'SwapActivation(to=tanh)'"),
    ],
)
def test_a_wrong_edit_ends_before_anything_is_written(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", "lenet5", "--data", "digits", "--out", str(tmp_path / "run"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
