"""`bench inference`: every row answers with the network that it names, and the document says what stands beside what."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from convatlas.benchmark import inference
from convatlas.benchmark.peers import torchvision_has
from convatlas.errors import UsageError
from convatlas.export import quantization
from convatlas.inference import onnx, openvino

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
        found = inference.measure_row("resnet20_cifar", row, photos)
    finally:
        torch.set_grad_enabled(True)  # a row has a process of its own, and ends it
    assert found["images_per_second"] > 1
    assert found["memory_bytes"] > 1e7


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # a test has one core
@pytest.mark.parametrize("row", ["baseline, files", "dataloader, files"])
def test_the_usual_scripts_classify_every_file(row: str, photos: Path) -> None:
    if not torchvision_has("resnet18"):
        pytest.skip("torchvision is not installed: make peers")
    name, files = row.partition(",")[0], sorted(photos.iterdir())
    assert inference._FILES[name]("resnet20_cifar", *inference._network("resnet20_cifar"), files)() == 5


def test_the_document_compares_work_of_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"": 10.0, ", batch 1": 5.0, ", files": 2.0}

    def in_a_process(what: str, *command: str) -> dict[str, float]:
        name, _, rest = command[command.index("--row") + 1].partition(",")
        return {"images_per_second": speeds[f",{rest}" if rest else ""] * (3 if name == "auto" else 1), "memory_bytes": 1e9}

    said: list[str] = []
    monkeypatch.setattr(inference, "run_in_subprocess", in_a_process)
    monkeypatch.setattr(inference, "write_photographs", lambda folder: None)
    found: dict[str, Any] = inference.benchmark_inference("lenet5", 3, False, said.append)
    ratios = {row["name"]: row["ratio"] for row in found["rows"]}
    assert [ratios[name] for name in ("auto", "auto, batch 1", "auto, files", "eager")] == pytest.approx([3, 3, 3, 1])
    assert "compile" not in ratios
    assert any("compile is left out: it needs" in line for line in said)


def test_an_unknown_row_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown row 'auto, batch': the nearest is 'auto, batch 1'"):
        inference.measure_row("lenet5", "auto, batch", tmp_path)
