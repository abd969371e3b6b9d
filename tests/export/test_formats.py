"""Exports compute what the network does, in a process without ConvAtlas."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import randomize_to_unit_signal, randomize_weights, small_model
from torch import Tensor

import convatlas as ca
from convatlas import models
from convatlas.classifier import Classifier
from convatlas.cli.main import main
from convatlas.errors import UserError
from convatlas.export import formats, huggingface, quantization
from convatlas.inference import eager, onnx, openvino

pytestmark = pytest.mark.skipif(
    bool(onnx.missing_requirement() or quantization.missing_requirement()),
    reason="OpenVINO, NNCF and ONNX Runtime are not all installed: make setup",
)

OTHER_PROCESS = """
import json, sys
import numpy as np

folder, formats = sys.argv[1], sys.argv[2:]
images = np.load(f"{folder}/images.npy")
results = {}
if "onnx" in formats:
    import onnxruntime
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
    batches = (images[:1], images[1:])
    results["onnx"] = np.concatenate([session.run(None, {"images": batch})[0] for batch in batches])
for name in ("openvino", "int8"):
    if name in formats:
        import openvino
        fp32 = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.compile_model(f"{folder}/{name}/model.xml", "CPU", fp32)
        results[name] = np.concatenate([compiled(batch)[0] for batch in (images[:1], images[1:])])
for name, file in (("safetensors", "classifier.safetensors"), ("hub", "hub/model.safetensors")):
    if name in formats:
        import safetensors.numpy
        tensors = safetensors.numpy.load_file(f"{folder}/{file}")
        results[name] = np.array([sum(float(np.abs(tensor).sum()) for tensor in tensors.values())])
if "hub" in formats:
    assert json.load(open(f"{folder}/hub/config.json"))["id2label"]["7"] == "7"
np.savez(f"{folder}/results.npz", **results)
assert not [name for name in sys.modules if name.startswith("convatlas")], "ConvAtlas must not be needed"
"""


def run_in_other_process(folder: Path, images: Tensor, *formats: str) -> dict[str, Any]:
    """The logits that a process without ConvAtlas computes from the exports in the folder."""
    np.save(folder / "images.npy", images.numpy())
    subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(folder), *formats],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    return dict(np.load(folder / "results.npz"))


def difference(logits: Any, expected: Tensor) -> float:
    assert logits.shape == expected.shape
    return float(np.abs(logits - expected.numpy()).max() / expected.abs().max())


def test_every_format_is_read_without_convatlas(
    trained: Classifier, trained_run: Path, digits: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "onnx": "model.onnx",
        "openvino": "openvino",
        "int8": "int8",
        "safetensors": "classifier.safetensors",
        "hub": "hub",
    }
    documents = {}
    for name, place in places.items():
        words = [
            "export",
            str(trained_run),
            "--to",
            name,
            "--out",
            str(tmp_path / place),
            "--json",
            "--max-drop",
            "3",
        ]
        assert main(words) == 0, capsys.readouterr().err
        documents[name] = json.loads(capsys.readouterr().out)
        assert documents[name]["out"] == str(tmp_path / place)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {*places.values(), "model_classify.py"}
    results = run_in_other_process(tmp_path, digits, *places)
    with torch.inference_mode():
        expected = trained.model(trained.normalizer(digits)).float()
    assert difference(results["onnx"], expected) < 1e-3
    assert difference(results["openvino"], expected) < 1e-3
    assert documents["onnx"]["difference"] < 1e-3
    # int8: the drop reported for the validation images holds for as many test images
    same = (results["int8"].argmax(1) == expected.argmax(1).numpy()).mean()
    assert same > 0.95
    assert documents["int8"]["drop"] == pytest.approx(
        documents["int8"]["before"] - documents["int8"]["after"]
    )
    tensors = [*trained.model.state_dict().values(), *trained.normalizer.state_dict().values()]
    assert results["safetensors"] == pytest.approx(
        sum(float(tensor.abs().sum()) for tensor in tensors), rel=1e-5
    )
    assert results["hub"] == pytest.approx(results["safetensors"])
    # and read again by ConvAtlas: the same classifier
    for place in ("classifier.safetensors", "hub"):
        again = ca.load(tmp_path / place)
        assert again.metadata == trained.metadata
        assert torch.equal(again.logits(digits), trained.logits(digits))


def test_files_hold_classes_and_preprocessing(trained: Classifier, digits: Tensor, tmp_path: Path) -> None:
    import onnx as library

    formats.to_onnx(trained, digits[:3], tmp_path / "model.onnx")
    model = library.load(str(tmp_path / "model.onnx"))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["classes"]) == list(trained.metadata.classes)
    assert json.loads(properties["convatlas"])["preprocessing"]["mode"] == trained.metadata.preprocessing.mode
    (images,) = model.graph.input
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == library.TensorProto.UINT8
    dims = images.type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch"
    (logits,) = model.graph.output
    assert logits.name == "logits"
    assert [dim.dim_param or dim.dim_value for dim in logits.type.tensor_type.shape.dim] == ["batch", 10]
    values = (*model.graph.value_info, *model.graph.output)
    assert {dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim} <= {"", "batch"}
    assert [dim.dim_value for dim in dims[1:]] == [1, 32, 32]
    assert not any(tensor.data_location == library.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    formats.to_openvino(trained, digits[:3], tmp_path / "ir")
    read = openvino.read_model(tmp_path / "ir" / "model.xml")
    assert json.loads(read.get_rt_info("classes").astype(str)) == list(trained.metadata.classes)
    assert read.inputs[0].partial_shape[0].is_dynamic


@pytest.mark.slow
def test_auxiliary_heads_are_left_out(tmp_path: Path) -> None:
    import onnx as library

    model, images = small_model("googlenet")
    with_heads = sum(parameter.numel() for parameter in model.parameters())
    heads = sum(p.numel() for name, p in model.named_parameters() if name.split(".")[0] in model.heads)
    randomize_weights(model).eval()
    formats.to_onnx(model, images, tmp_path / "model.onnx")
    graph = library.load(str(tmp_path / "model.onnx")).graph
    exported = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer if len(tensor.dims) > 0)
    assert heads > 0.3 * with_heads
    assert exported < with_heads - 0.9 * heads


@pytest.mark.slow
@pytest.mark.parametrize("name", models.list_models())
def test_every_network_is_exported_and_read_without_convatlas(name: str, tmp_path: Path) -> None:
    model, images = small_model(name)
    randomize_to_unit_signal(model, images)
    formats.to_onnx(model, images, tmp_path / "model.onnx")
    formats.to_openvino(model, images, tmp_path / "openvino")
    with torch.inference_mode():
        expected = model(images)
    for logits in run_in_other_process(tmp_path, images, "onnx", "openvino").values():
        assert difference(logits, expected) < 1e-3


class TestNothingIsWritten:
    """A failed export leaves no file."""

    def test_by_an_export_that_does_not_agree(
        self, trained: Classifier, digits: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right = eager.build

        def wrong(module: Any, example: Tensor, precision: Any) -> Any:
            run = right(module, example, precision)
            return lambda images: run(images) * 1.01

        monkeypatch.setattr(eager, "build", wrong)
        for write in (formats.to_onnx, formats.to_openvino):
            with pytest.raises(
                UserError, match=r"does not agree with PyTorch: the largest difference is 0\.01 of"
            ):
                write(trained, digits[:3], tmp_path / "model")
        assert list(tmp_path.iterdir()) == []

    def test_by_int8_that_loses_too_much(self, trained: Classifier, digits: Tensor, tmp_path: Path) -> None:
        scores = iter([92.0, 91.4])
        with pytest.raises(
            UserError,
            match=r"top-1 falls by 0\.60 points, from 92\.00 to 91\.40 %, more than the 0\.5 that --max-drop",
        ):
            formats.to_int8(trained, digits[:3], tmp_path / "int8", [digits[:8]], lambda infer: next(scores))
        assert list(tmp_path.iterdir()) == []

    def test_over_an_existing_file(
        self, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "model.onnx").write_text("precious")
        assert main(["export", str(trained_run), "--to", "onnx", "--out", str(tmp_path / "model.onnx")]) == 2
        assert "already exists: choose another place with --out" in capsys.readouterr().err
        assert (tmp_path / "model.onnx").read_text() == "precious"

    def test_without_the_library_which_is_named(
        self,
        trained_run: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for name, extra in (("onnx", "onnx"), ("openvino", "openvino"), ("int8", "openvino")):
            monkeypatch.setattr(onnx, "find_spec", lambda name: None)
            monkeypatch.setattr(openvino, "find_spec", lambda name: None)
            assert main(["export", str(trained_run), "--to", name, "--out", str(tmp_path / "out")]) == 1
            assert f"pip install 'convatlas[{extra}]'" in capsys.readouterr().err.splitlines()[-1]
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        assert main(["export", str(trained_run), "--to", "hub", "--out", str(tmp_path / "out")]) == 1
        assert "pip install 'convatlas[hf]'" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []


def test_the_model_card_has_accuracy_and_limits(trained: Classifier, tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    huggingface.to_hub(trained, tmp_path / "hub")
    card = huggingface_hub.ModelCard.load(tmp_path / "hub" / "README.md")
    (result,) = card.data.eval_results
    assert result.metric_value == pytest.approx(trained.metadata.metrics["test_top1"] / 100)
    assert (result.dataset_name, result.dataset_split) == ("digits", "test")
    assert f"{trained.metadata.metrics['test_top1']:.2f} % (95 % interval " in card.text
    assert "width 0.5" in card.text
    assert "## Limits" in card.text
    assert "images like those of digits; for others it is not known" in card.text


def test_names_from_files_are_harmless_in_the_card(trained: Classifier, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    name = "[x](http://y)|<script>\x1b"
    metadata = trained.metadata.replace(
        classes=(name, *trained.metadata.classes[1:]), provenance={"data": f"folder:{name}"}, metrics={}
    )
    huggingface.to_hub(Classifier(metadata, trained.model, trained.normalizer), tmp_path / "hub")
    text = (tmp_path / "hub" / "README.md").read_text()
    assert "<script>" not in text
    assert "[x]" not in text
    assert "\x1b" not in text
    assert "Not measured" in text
