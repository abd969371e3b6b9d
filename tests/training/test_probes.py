"""Probes: measured of a run while it trains, without changing it."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_runs import small_run, weights_sha256
from torch import nn

import convatlas as ca
from convatlas.data import open_dataset
from convatlas.data.loading.loader import iterate_batches
from convatlas.errors import UsageError, UserError
from convatlas.training.probes.records import (
    GradientNorms,
    LogitGap,
    LossAlongGradient,
    ResponseDeviations,
    TrainingScores,
)

PROBES = (
    TrainingScores(images=300),
    GradientNorms(images=64),
    ResponseDeviations(images=64),
    LogitGap(images=64),
    LossAlongGradient(images=64, steps=(1e-4, 1e-3)),
)


def probe_lines(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of each probe."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    names = [type(probe).__name__ for probe in PROBES]
    return {name: [line for line in lines if line.get("probe") == name] for name in names}


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("probes") / "run"
    ca.train(small_run(epochs=2, probes=PROBES, validate_every=15), out=out)
    return out


def test_a_run_with_probes_ends_with_the_weights_of_one_without(probed: Path, tmp_path: Path) -> None:
    ca.train(small_run(epochs=2, validate_every=15), out=tmp_path / "plain")
    assert weights_sha256(tmp_path / "plain") == weights_sha256(probed)


def test_validations_come_at_the_steps_that_the_run_says(probed: Path) -> None:
    lines = [json.loads(line) for line in (probed / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line.get("split") == "val"]
    last = json.loads((probed / "run.json").read_text())["run"]["recipe"]["budget"]["count"] * 44
    assert steps == [15, 30, 45, 60, 75, last]
    for of_probe in probe_lines(probed).values():
        assert [line["step"] for line in of_probe] == steps


def test_probes_and_validations_are_part_of_the_id() -> None:
    plain = small_run()
    ids = {plain.id, plain.replace(validate_every=3).id, plain.replace(probes=PROBES).id}
    assert len(ids) == 3


def test_the_last_values_are_those_of_the_saved_network(probed: Path) -> None:
    """Computed once more from the saved weights, by plain torch in float64."""
    classifier = ca.load(probed)
    model = classifier.model.double().eval()
    split = open_dataset("digits").splits["train"]
    rows = np.linspace(0, len(split) - 1, 64).round().astype(int)
    pixels, _ = classifier.metadata.preprocessing.load_batch(split.images, rows)
    images = classifier.normalizer.double()(pixels)
    with torch.no_grad():
        logits = model(images)
    ordered = logits.sort(dim=1).values
    gap = (ordered[:, -1] - ordered[:, :-1].mean(1)).mean()
    last = {name: lines[-1] for name, lines in probe_lines(probed).items()}
    assert last["LogitGap"]["gap"] == pytest.approx(float(gap), rel=1e-4)
    deviations: dict[str, float] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda _, __, y, path=path: deviations.update({path: float(y.std(correction=0))})
            )
    with torch.no_grad():
        model(images)
    assert last["ResponseDeviations"]["deviations"] == pytest.approx(deviations, rel=1e-4)


def test_the_training_error_falls_and_the_loss_falls_along_its_gradient(probed: Path) -> None:
    lines = probe_lines(probed)
    assert lines["TrainingScores"][-1]["top1"] > lines["TrainingScores"][0]["top1"]
    for line in lines["LossAlongGradient"]:
        assert line["losses"][0] < line["loss"]
        assert line["gradient_distances"][0] < line["gradient_distances"][1]
    norms = lines["GradientNorms"][-1]["norms"]
    assert all(math.isfinite(norm) and norm > 0 for norm in norms.values())


def test_a_stopped_run_logs_the_same_bytes(
    probed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(epochs=2, probes=PROBES, validate_every=15)
    with monkeypatch.context() as patch:

        def stop(*args: Any) -> Iterator[Any]:
            for step, batch in enumerate(iterate_batches(*args)):
                if step == 40:
                    raise MemoryError("stop here")
                yield batch

        patch.setattr("convatlas.training.loop.iterate_batches", stop)
        with pytest.raises(UserError):
            ca.train(run, tmp_path, workers=0)
    ca.train(run, tmp_path, workers=0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (probed / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("images", [0, -1])
def test_a_probe_of_no_images_is_refused(images: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="images"):
        ca.train(small_run(probes=(LogitGap(images=images),)), out=tmp_path)
