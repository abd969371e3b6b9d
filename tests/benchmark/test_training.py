"""`bench train`: every row trains the network that it names, and the document compares the rows."""

from typing import Any

import numpy as np
import pytest
import torch

from convatlas import models
from convatlas.benchmark import training
from convatlas.benchmark.peers import timm_has, torchvision_has
from convatlas.errors import UsageError
from convatlas.runtime import hardware


@pytest.fixture
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SECONDS", 0.05)
    monkeypatch.setattr(training, "WARM_UP", 1)


@pytest.mark.usefixtures("short_measurements")
@pytest.mark.parametrize("row", ["baseline", "baseline-tuned", "bf16", "ours"])
def test_every_row_is_measured(row: str) -> None:
    measurement = training.measure_row("lenet5", 8, row)
    assert measurement["images_per_second"] > 8
    assert measurement["memory_bytes"] > 1e7


def test_the_rows_train_the_same_network_in_other_libraries() -> None:
    if not (torchvision_has("resnet50") and timm_has("resnet50")):
        pytest.skip("torchvision and timm are not installed: make peers")
    for row in ("baseline", "timm-compiled"):
        network = training.create_network("resnet50", row)
        assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032
    network_with_heads = training.create_network("inception_v3", "timm-compiled").train()
    logits = training.all_logits(network_with_heads(torch.zeros(2, 3, 299, 299)))
    assert [tuple(tensor.shape) for tensor in logits] == [(2, 1000), (2, 1000)]


def test_the_document_has_the_rows_and_their_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"baseline": 10.0, "baseline-tuned": 15.0, "bf16": 30.0, "ours": 36.0}
    commands: list[tuple[str, ...]] = []

    def fake_measurement(description: str, *arguments: str) -> dict[str, float]:
        commands.append(arguments)
        return {"images_per_second": speeds[arguments[-1]], "memory_bytes": 1e9}

    monkeypatch.setattr(training, "run_in_subprocess", fake_measurement)
    monkeypatch.setattr(training, "best_precision", lambda device: "bf16")
    spec = hardware.get_device_spec("a100-80gb")
    monkeypatch.setattr(hardware, "measure_device", lambda device, precision: spec)
    document: dict[str, Any] = training.benchmark_training("lenet5", 8, 2, False, lambda message: None)
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == list(speeds)  # without --compile nothing is compiled
    assert (rows["ours"]["ratio"], rows["ours"]["ratio_tuned"]) == pytest.approx((3.6, 2.4))
    assert document["baseline"] == "our network in a plain loop"
    assert document["batch"] == 8
    assert document["peak_flops"] == 312e12
    assert rows["ours"]["share"] == pytest.approx(3.6 * rows["baseline"]["share"])
    assert rows["ours"]["share"] == pytest.approx(100 * 36 * 6 * 415_680 / 312e12)
    assert document["bandwidth"] == 2.039e12
    # S2 and S4: forward and backward, 2 bytes a value
    assert document["floor"]["bytes_per_image"] == 2 * 2 * (6 * 28**2 + 6 * 14**2 + 16 * 10**2 + 16 * 5**2)
    step_ms = 1e3 * 8 / rows["ours"]["images_per_second"]
    assert rows["ours"]["floor_share"] == pytest.approx(100 * document["floor"]["ms"] / step_ms)
    assert commands[0] == ("bench", "train", "lenet5", "--batch", "8", "--row", "baseline")
    assert len(commands) == 8


def test_an_unknown_row_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown row 'our': the nearest is 'ours'"):
        training.measure_row("lenet5", 8, "our")


def test_networks_that_label_pixels_train_on_the_pixels_that_they_label() -> None:
    network = models.create_model("unet", width=0.05)
    images = torch.randint(0, 256, (2, 1, 204, 220), dtype=torch.uint8)
    targets = torch.randint(0, 2, (2, 204, 220))
    window = training.label_window(targets, network(images.float()))
    assert torch.equal(window, targets[:, 92:112, 92:128])
    samples = training._samples(network, images, targets).load_plain(np.arange(2))
    assert torch.equal(samples.images, images)
    assert torch.equal(samples.targets, window.byte())
    labels = torch.tensor([3, 1])
    assert training.label_window(labels, torch.zeros(2, 4)) is labels
