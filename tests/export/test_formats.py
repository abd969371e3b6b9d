"""What is exported is what the network computes, wherever it is read."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import shake, small, steady
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

ELSEWHERE = """
import json, sys
import numpy as np

folder, formats = sys.argv[1], sys.argv[2:]
images, found = np.load(f"{folder}/images.npy"), {}
if "onnx" in formats:
    import onnxruntime
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
    found["onnx"] = np.concatenate([session.run(None, {"images": part})[0] for part in (images[:1], images[1:])])
for name in ("openvino", "int8"):
    if name in formats:
        import openvino
        compiled = openvino.compile_model(f"{folder}/{name}/model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found[name] = np.concatenate([compiled(part)[0] for part in (images[:1], images[1:])])
for name, file in (("safetensors", "classifier.safetensors"), ("hub", "hub/model.safetensors")):
    if name in formats:
        import safetensors.numpy
        tensors = safetensors.numpy.load_file(f"{folder}/{file}")
        found[name] = np.array([sum(float(np.abs(tensor).sum()) for tensor in tensors.values())])
if "hub" in formats:
    assert json.load(open(f"{folder}/hub/config.json"))["id2label"]["7"] == "7"
np.savez(f"{folder}/found.npz", **found)
assert not [name for name in sys.modules if name.startswith("convatlas")], "this must work without us"
"""


def elsewhere(folder: Path, images: Tensor, *formats: str) -> dict[str, Any]:
    """What a process that knows nothing of us computes from what lies in the folder."""
    np.save(folder / "images.npy", images.numpy())
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(folder), *formats], check=True, capture_output=True, cwd=folder)
    return dict(np.load(folder / "found.npz"))


def difference(found: Any, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected.numpy()).max() / expected.abs().max())


def test_every_format_of_a_trained_classifier_is_read_by_a_process_without_us(
    trained: Classifier, trained_run: Path, digits: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"onnx": "model.onnx", "openvino": "openvino", "int8": "int8", "safetensors": "classifier.safetensors", "hub": "hub"}
    documents = {}
    for name, place in places.items():
        words = ["export", str(trained_run), "--to", name, "--out", str(tmp_path / place), "--json", "--max-drop", "3"]
        assert main(words) == 0, capsys.readouterr().err
        documents[name] = json.loads(capsys.readouterr().out)
        assert documents[name]["out"] == str(tmp_path / place)
    assert not [path for path in tmp_path.iterdir() if path.name not in places.values()]
    found = elsewhere(tmp_path, digits, *places)
    with torch.inference_mode():
        expected = trained.model(trained.normalizer(digits)).float()
    assert difference(found["onnx"], expected) < 1e-3
    assert difference(found["openvino"], expected) < 1e-3
    assert documents["onnx"]["difference"] < 1e-3
    # int8: what was said of the validation images, within what as many test images can tell
    same = (found["int8"].argmax(1) == expected.argmax(1).numpy()).mean()
    assert same > 0.95
    assert documents["int8"]["drop"] == pytest.approx(documents["int8"]["before"] - documents["int8"]["after"])
    tensors = [*trained.model.state_dict().values(), *trained.normalizer.state_dict().values()]
    assert found["safetensors"] == pytest.approx(sum(float(tensor.abs().sum()) for tensor in tensors), rel=1e-5)
    assert found["hub"] == pytest.approx(found["safetensors"])
    # and by us again: the same classifier
    for place in ("classifier.safetensors", "hub"):
        again = ca.load(tmp_path / place)
        assert again.metadata == trained.metadata
        assert torch.equal(again.logits(digits), trained.logits(digits))


def test_the_files_say_what_they_are(trained: Classifier, digits: Tensor, tmp_path: Path) -> None:
    import onnx as library

    formats.to_onnx(trained, digits[:3], tmp_path / "model.onnx")
    model = library.load(str(tmp_path / "model.onnx"))
    facts = {one.key: one.value for one in model.metadata_props}
    assert json.loads(facts["classes"]) == list(trained.metadata.classes)
    assert json.loads(facts["convatlas"])["preprocessing"]["fit"] == trained.metadata.preprocessing.fit
    (images,) = model.graph.input
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == library.TensorProto.UINT8
    dims = images.type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert [dim.dim_value for dim in dims[1:]] == [1, 32, 32]
    assert not any(tensor.data_location == library.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    formats.to_openvino(trained, digits[:3], tmp_path / "ir")
    read = openvino.read_model(tmp_path / "ir" / "model.xml")
    assert json.loads(read.get_rt_info("classes").astype(str)) == list(trained.metadata.classes)
    assert read.inputs[0].partial_shape[0].is_dynamic


@pytest.mark.slow
def test_auxiliary_heads_are_left_out(tmp_path: Path) -> None:
    import onnx as library

    model, images = small("googlenet")
    with_heads = sum(parameter.numel() for parameter in model.parameters())
    heads = sum(p.numel() for name, p in model.named_parameters() if name.split(".")[0] in model.heads)
    shake(model).eval()
    formats.to_onnx(model, images, tmp_path / "model.onnx")
    graph = library.load(str(tmp_path / "model.onnx")).graph
    kept = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer if len(tensor.dims) > 0)
    assert heads > 0.3 * with_heads
    assert kept < with_heads - 0.9 * heads


@pytest.mark.slow
@pytest.mark.parametrize("name", models.list_models())
def test_every_network_is_exported_and_read_by_a_process_without_us(name: str, tmp_path: Path) -> None:
    model, images = small(name)
    steady(model, images)
    formats.to_onnx(model, images, tmp_path / "model.onnx")
    formats.to_openvino(model, images, tmp_path / "openvino")
    with torch.inference_mode():
        expected = model(images)
    for found in elsewhere(tmp_path, images, "onnx", "openvino").values():
        assert difference(found, expected) < 1e-3


class TestNothingIsLeft:
    """An export that is not right is not there."""

    def test_one_that_does_not_agree(self, trained: Classifier, digits: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        right = eager.build

        def wrong(part: Any, example: Tensor, precision: Any) -> Any:
            run = right(part, example, precision)
            return lambda images: run(images) * 1.01

        monkeypatch.setattr(eager, "build", wrong)
        for write in (formats.to_onnx, formats.to_openvino):
            with pytest.raises(UserError, match=r"does not agree with PyTorch: the largest difference is 0\.01 of"):
                write(trained, digits[:3], tmp_path / "model")
        assert list(tmp_path.iterdir()) == []

    def test_int8_that_loses_more_than_it_may(self, trained: Classifier, digits: Tensor, tmp_path: Path) -> None:
        scores = iter([92.0, 91.4])
        with pytest.raises(UserError, match=r"top-1 falls by 0.60 points, from 92.00 to 91.40 %, more than the 0.5 that --max-drop allows"):
            formats.to_int8(trained, digits[:3], tmp_path / "int8", [digits[:8]], lambda infer: next(scores))
        assert list(tmp_path.iterdir()) == []

    def test_what_is_there_is_not_replaced(self, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "model.onnx").write_text("precious")
        assert main(["export", str(trained_run), "--to", "onnx", "--out", str(tmp_path / "model.onnx")]) == 2
        assert "is there already: choose another place with --out" in capsys.readouterr().err
        assert (tmp_path / "model.onnx").read_text() == "precious"

    def test_a_missing_library_is_named_with_what_to_install(
        self, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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


def test_the_card_tells_what_the_run_knows_and_its_limits(trained: Classifier, tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    huggingface.to_hub(trained, tmp_path / "hub")
    card = huggingface_hub.ModelCard.load(tmp_path / "hub" / "README.md")
    (result,) = card.data.eval_results
    assert result.metric_value == pytest.approx(trained.metadata.metrics["test_top1"] / 100)
    assert (result.dataset_name, result.dataset_split) == ("digits", "test")
    assert f"{trained.metadata.metrics['test_top1']:.2f} % (95 % interval " in card.text
    assert "width 0.5" in card.text
    assert "## Limits" in card.text
    assert "images like those of digits; of others nothing is known" in card.text


def test_names_from_files_are_harmless_in_the_card(trained: Classifier, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    odd = "[x](http://y)|<script>\x1b"
    card = trained.metadata.replace(classes=(odd, *trained.metadata.classes[1:]), provenance={"data": f"folder:{odd}"}, metrics={})
    huggingface.to_hub(Classifier(card, trained.model, trained.normalizer), tmp_path / "hub")
    text = (tmp_path / "hub" / "README.md").read_text()
    assert "<script>" not in text
    assert "[x]" not in text
    assert "\x1b" not in text
    assert "Not measured" in text
