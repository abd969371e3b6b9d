"""--log tensorboard: the figures of metrics.jsonl, as TensorBoard itself reads them."""

import errno
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.small_runs import small_run

from convatlas import training
from convatlas.errors import UserError
from convatlas.training import tensorboard_log
from convatlas.training.tensorboard_log import FOLDER


def read_scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every figure that TensorBoard shows."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator: Any = module.EventAccumulator(str(out / FOLDER))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def read_metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_shows_the_figures_of_the_log(tmp_path: Path) -> None:
    training.train(small_run(epochs=1), tmp_path / "run", workers=0, log="tensorboard")
    scalars = read_scalars(tmp_path / "run")
    for split, key in (("train", "loss"), ("train", "lr"), ("val", "top1"), ("test", "loss")):
        expected = [
            (line["step"], line[key])
            for line in read_metrics(tmp_path / "run")
            if line.get("split") == split and "event" not in line
        ]
        assert expected
        shown = scalars[f"{split}/{key}"]
        assert [step for step, _ in shown] == [step for step, _ in expected]
        assert [value for _, value in shown] == pytest.approx([value for _, value in expected], rel=1e-6)
    assert all(math.isfinite(value) for _, value in scalars["timing/images_per_second"])


def test_the_run_is_the_same_with_and_without(tmp_path: Path) -> None:
    for name, log in (("with", "tensorboard"), ("without", None)):
        training.train(small_run(epochs=1), tmp_path / name, workers=0, log=log)  # type: ignore[arg-type]
    for file in ("run.json", "metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "with" / file).read_bytes() == (tmp_path / "without" / file).read_bytes()


def test_a_disk_that_refuses_stops_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, first_step: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensorboard_log, "_create_writer", refuse)
    result = training.train(small_run(epochs=1), tmp_path / "run", workers=0, log="tensorboard")
    assert result.metrics["test_n"] > 0


def test_without_tensorboard_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"not installed: pip install 'convatlas\[tensorboard\]'"):
        training.train(small_run(epochs=1), tmp_path / "run", workers=0, log="tensorboard")
    assert not (tmp_path / "run").exists()
