"""`convatlas train`, then `eval` and `predict` on what it left."""

import json
from pathlib import Path

import pytest

from convatlas.cli.main import main


def test_train_eval_and_predict_print_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert (
        main(
            [
                "train",
                "lenet5",
                "--data",
                "digits",
                "--epochs",
                "1",
                "--set",
                "log_every=5",
                "--out",
                str(out),
                "--json",
            ]
        )
        == 0
    )
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["out"] == str(out)
    assert len(document["run_id"]) == 64
    assert "estimated time" in captured.err
    assert main(["eval", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == document["metrics"]["test_top1"]
    assert main(["eval", str(out), "--split", "val", "--crops", "9"]) == 2
    bad = tmp_path / "bad\x1b]52;x.png"
    bad.write_text("no image")
    capsys.readouterr()
    assert main(["predict", str(out), str(out / "batch.png"), str(bad), "--json"]) == 1
    good, failed = json.loads(capsys.readouterr().out)
    assert len(good["classes"]) == 5
    assert "not a readable" in failed["error"]
    assert main(["predict", str(out), str(out / "batch.png"), str(bad), "--top", "2"]) == 1
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "1 of 2 images" in captured.out
    assert main(["train", str(out / "run.json"), "--out", str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == document["metrics"]
