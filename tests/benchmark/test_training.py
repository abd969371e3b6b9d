"""`bench train`: every row trains the network that it names, and the document says what stands beside what."""

from typing import Any

import pytest
import torch

from convatlas.benchmark import training
from convatlas.benchmark.peers import timm_has, torchvision_has
from convatlas.errors import UsageError
from convatlas.runtime import hardware


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SECONDS", 0.05)
    monkeypatch.setattr(training, "WARM_UP", 1)
    monkeypatch.setattr(hardware, "SECONDS_PER_RATE", 0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("row", ["baseline", "baseline-tuned", "bf16", "ours"])
def test_every_row_is_measured(row: str) -> None:
    found = training.measure_row("lenet5", 8, row)
    assert found["images_per_second"] > 8
    assert found["memory_bytes"] > 1e7


def test_the_rows_train_the_same_network_in_other_libraries() -> None:
    if not (torchvision_has("resnet50") and timm_has("resnet50")):
        pytest.skip("torchvision and timm are not installed: make peers")
    counts = {row: sum(p.numel() for p in training._network("resnet50", row).parameters()) for row in ("baseline", "timm-compiled")}
    assert set(counts.values()) == {25_557_032}
    with_heads = training._network("inception_v3", "timm-compiled").train()
    images = torch.zeros(2, 3, 299, 299)
    assert [tuple(output.shape) for output in training._outputs(with_heads(images))] == [(2, 1000), (2, 1000)]


@pytest.mark.usefixtures("quick")
def test_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"baseline": 10.0, "baseline-tuned": 15.0, "bf16": 30.0, "compiled": 32.0, "timm-compiled": 33.0, "ours": 36.0}
    words: list[tuple[str, ...]] = []

    def in_a_process(what: str, *command: str) -> dict[str, float]:
        words.append(command)
        return {"images_per_second": speeds[command[-1]], "memory_bytes": 1e9}

    monkeypatch.setattr(training, "run_in_subprocess", in_a_process)
    monkeypatch.setattr(training, "best_precision", lambda device: "bf16")
    found: dict[str, Any] = training.benchmark_training("lenet5", 8, 2, False, lambda line: None)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["baseline", "baseline-tuned", "bf16", "ours"]  # nothing is compiled unasked
    assert (rows["ours"]["ratio"], rows["ours"]["ratio_tuned"]) == pytest.approx((3.6, 2.4))
    assert found["baseline"] == "our network in a plain loop"
    assert found["batch"] == 8
    assert rows["ours"]["share"] == pytest.approx(3.6 * rows["baseline"]["share"])
    assert words[0] == ("bench", "train", "lenet5", "--batch", "8", "--row", "baseline")
    assert len(words) == 8


def test_an_unknown_row_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="unknown row 'our': the nearest is 'ours'"):
        training.measure_row("lenet5", 8, "our")
