"""`bench inference`: every row classifies with the network that it names; ratios compare work of one kind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from convatlas import models
from convatlas.analysis import analyze
from convatlas.benchmark import inference
from convatlas.benchmark.inference_rows import FILES_ROWS, create_network, make_classifier
from convatlas.benchmark.mask_rows import macs_of_file
from convatlas.benchmark.peers import torchvision_has
from convatlas.errors import UsageError
from convatlas.export import quantization
from convatlas.inference import onnx, openvino
from convatlas.runtime import hardware

ROWS = ["baseline", "baseline-tuned", "eager", "auto", "baseline, batch 1", "auto, batch 1", "auto, files"]
ROWS += [] if openvino.missing_requirement() else ["openvino-direct"]
ROWS += [] if onnx.missing_requirement() else ["onnx"]
ROWS += [] if quantization.missing_requirement() else ["int8"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(5):
        Image.effect_noise((60, 50), 60).convert("RGB").save(folder / f"{number}.jpg")
    return folder


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_measured(row: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "SECONDS", 0.05)
    try:
        measurement = inference.measure_row("resnet20_cifar", row, photos)
    finally:
        torch.set_grad_enabled(True)  # a row disables gradients for good, since its process ends with it
    assert measurement["images_per_second"] > 1
    assert measurement["memory_bytes"] > 1e7


@pytest.mark.parametrize("row", ["baseline, files", "auto, files"])
@pytest.mark.parametrize("model", ["unet", "fcn8s"])
def test_rows_of_networks_that_label_pixels_label_every_pixel(model: str, row: str, tmp_path: Path) -> None:
    for number in range(2):
        Image.effect_noise((120, 100), 60).save(tmp_path / f"{number}.jpg")
    network = models.create_model(model, width=0.05).eval()
    shapes: list[torch.Size] = []
    network.register_forward_hook(lambda module, images, logits: shapes.append(logits.shape[2:]))
    with torch.inference_mode():
        assert FILES_ROWS[row.partition(",")[0]](model, network, sorted(tmp_path.iterdir()))() == 2
    assert all(height >= 100 and width >= 120 for height, width in shapes)


def test_the_cost_of_a_photograph_is_that_of_its_tiles() -> None:
    unet, fcn = (make_classifier(name, models.create_model(name, width=0.05)) for name in ("unet", "fcn8s"))
    # 500x375 are two tiles of 388x388 (arXiv:1505.04597, Fig. 2)
    assert macs_of_file(unet) == 2 * analyze(unet.model, (1, 572, 572)).macs
    assert macs_of_file(fcn) == analyze(fcn.model, (3, 375, 500)).macs


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # a test has one core
@pytest.mark.parametrize("model", ["resnet20_cifar", "lenet5"])
@pytest.mark.parametrize("row", ["baseline, files", "dataloader, files"])
def test_the_usual_scripts_classify_every_file(row: str, model: str, photos: Path) -> None:
    if not torchvision_has("resnet18"):
        pytest.skip("torchvision is not installed: make peers")
    make_classify = FILES_ROWS[row.partition(",")[0]]
    classify = make_classify(model, create_network(model), sorted(photos.iterdir()))
    assert classify() == 5


def test_the_document_compares_work_of_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"": 10.0, ", batch 1": 5.0, ", files": 2.0}

    def fake_measurement(description: str, *arguments: str) -> dict[str, float]:
        name, comma, kind = arguments[arguments.index("--row") + 1].partition(",")
        factor = 3 if name == "auto" else 1
        return {"images_per_second": speeds[comma + kind] * factor, "memory_bytes": 1e9}

    messages: list[str] = []
    monkeypatch.setattr(inference, "run_in_subprocess", fake_measurement)
    monkeypatch.setattr(inference, "write_photographs", lambda folder: None)
    spec = hardware.get_device_spec("a100-80gb")
    monkeypatch.setattr(hardware, "measure_device", lambda device, precision: spec)
    document: dict[str, Any] = inference.benchmark_inference("lenet5", 3, False, messages.append)
    ratios = {row["name"]: row["ratio"] for row in document["rows"]}
    names = ("auto", "auto, batch 1", "auto, files", "eager")
    assert [ratios[name] for name in names] == pytest.approx([3, 3, 3, 1])
    assert "compile" not in ratios
    assert any("compile is left out: it needs" in message for message in messages)


def test_an_unknown_row_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown row 'auto, batch': the nearest is 'auto, batch 1'"):
        inference.measure_row("lenet5", "auto, batch", tmp_path)
