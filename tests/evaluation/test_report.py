"""The command `eval`, and its report as a folder."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.ensemble_members import make_classifier, make_photos, make_run
from PIL import Image

from convatlas.cli.main import main
from convatlas.evaluation.report import write_report

Captured = pytest.CaptureFixture[str]


def test_the_command_prints_the_scores_of_an_ensemble(runs: list[Path], capsys: Captured) -> None:
    assert main(["eval", *map(str, runs), "--crops", "10", "--subsets"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"^top-1 [\d.]+ %, 95 % interval [\d.]+ to [\d.]+, 24 images, 4 networks, 10 crops "
        r"\(Krizhevsky 2012, sec. 4.1\)$",
        printed,
        re.MULTILINE,
    )
    assert "expected calibration error" in printed
    assert re.search(r"^ +4 +1 +[\d.]+ +[\d.]+ +[\d.]+$", printed, re.MULTILINE)


def test_the_command_prints_the_document_that_the_report_holds(
    runs: list[Path], tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "report"
    assert main(["eval", *map(str, runs), "--subsets", "--json", "--out", str(out)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((out / "evaluation.json").read_text())
    assert document["models"] == 4
    assert [member["weights"] for member in document["members"]] == list(map(str, runs))
    assert len(document["subsets"]) == 15
    markdown = (out / "report.md").read_text()
    assert f"**Top-1 {document['top1']:.2f} %**" in markdown
    for name in ("reliability.png", "confusion.png", "subsets.png"):
        assert f"({name})" in markdown
        with Image.open(out / name) as image:
            assert min(image.size) > 200


def test_a_report_may_be_written_again(runs: list[Path], tmp_path: Path) -> None:
    for split in ("test", "val"):
        assert main(["eval", str(runs[0]), "--split", split, "--out", str(tmp_path / "report")]) == 0
    assert "/photos, val |" in (tmp_path / "report" / "report.md").read_text()


def test_a_folder_that_holds_anything_else_is_unchanged(
    runs: list[Path], tmp_path: Path, capsys: Captured
) -> None:
    before = sorted(runs[1].iterdir())
    assert main(["eval", str(runs[0]), "--out", str(runs[1])]) == 2
    assert "is not empty and holds no evaluation: give another folder with --out" in capsys.readouterr().err
    assert sorted(runs[1].iterdir()) == before
    (tmp_path / "file").write_text("")
    assert main(["eval", str(runs[0]), "--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main(["eval"]) == 2
    assert "eval needs at least one run's folder" in capsys.readouterr().err


def test_an_unreadable_image_makes_the_command_exit_with_1(tmp_path: Path, capsys: Captured) -> None:
    name = make_photos(tmp_path / "photos")
    (tmp_path / "photos" / "test" / "dog" / "dog\x1b1.png").write_bytes(b"torn")
    run = make_run(tmp_path / "run", make_classifier(0, data=name))
    assert main(["eval", str(run), "--crops", "12", "--out", str(tmp_path / "report")]) == 1
    captured = capsys.readouterr()
    assert "not counted" in captured.err
    assert "unstated by the paper: what the 12 crops are" in captured.out
    assert "\x1b" not in captured.out + captured.err + (tmp_path / "report" / "report.md").read_text()


def member_document(name: str, top1: float) -> dict[str, Any]:
    return {"weights": name, "network": "lenet5", "views": 10, "top1": top1, "loss": 1.0}


DOCUMENT: dict[str, Any] = {
    "top1": 50.0,
    "top5": None,
    "loss": 0.6931,
    "n": 4,
    "crops": "10",
    "models": 2,
    "top1_interval": [15.0039, 84.9961],
    "ece": 12.5,
    "reliability": [{"low": 0.0, "high": 100.0, "n": 4, "confidence": 62.5, "accuracy": 50.0}],
    "balanced_accuracy": 50.0,
    "macro_f1": 33.333,
    "majority_class": {"name": "a|b", "share": 100.0},
    "per_class": [
        {"name": "a|b", "n": 4, "top1": 50.0, "f1": 66.667},
        {"name": "<c>\x1b", "n": 0, "top1": None, "f1": None},
    ],
    "confusion": [[2, 2], [0, 0]],
    "protocol": {
        "label": "10 crops",
        "source": "Krizhevsky 2012, sec. 4.1",
        "average": "probabilities",
        "ensemble": "probabilities",
        "unstated": ["something (ours: this)"],
    },
    "members": [member_document("runs/a|b", 25.0), member_document("runs/c", 50.0)],
    "unreadable": [{"file": "d|.png", "reason": "torn"}],
    "notes": ["a note"],
    "versus_best": {
        "member": 1,
        "interval": [-1.0, 2.5],
        "p": 0.0001,
        "difference": 0.0,
        "only_first": 1,
        "only_second": 1234,
    },
    "data": "photos",
    "split": "test",
    "subset": "list.txt",
}
MARKDOWN = """# Ensemble of 2 on photos

**Top-1 50.00 %** (95 % interval 15.00 to 85.00, 4 images); mean negative log-likelihood 0.6931; \
expected calibration error 12.50 %. Balanced accuracy 50.00 %, macro F1 33.33 %; worse than always \
predicting the largest class, a\\|b (100.00 %).

| | |
|---|---|
| networks | runs/a\\|b (lenet5), runs/c (lenet5) |
| data | photos, test, the images that list.txt names |
| crops | 10: 10 crops (Krizhevsky 2012, sec. 4.1); probabilities of 10 views |

- unstated, ours: something (ours: this)
- a note

## Members

| weights | top-1 % | loss |
|---|---:|---:|
| runs/a\\|b | 25.00 | 1.0000 |
| runs/c | 50.00 | 1.0000 |

Top-1 of the ensemble minus that of its best member, runs/c, on the same images: +0.00 points (95 % interval \
-1.00 to 2.50; McNemar p \\< 0.001). 1,234 images are predicted correctly by the ensemble only, \
1 by that member only.

## Calibration

Accuracy by confidence; on the dashed line the two are equal.

![Top-1 by confidence](reliability.png)

## Confusion

Rows are the true classes, columns the predicted ones.

![Confusion matrix](confusion.png)

| class | images | top-1 % | F1 % |
|---|---:|---:|---:|
| a\\|b | 4 | 50.00 | 66.67 |
| \\<c\\>\\\\x1b | 0 | - | - |

## Not counted

- d\\|.png: torn
"""


def test_the_report_escapes_names_and_has_a_blank_line_between_parts(tmp_path: Path) -> None:
    assert write_report(tmp_path, DOCUMENT).read_text() == MARKDOWN
