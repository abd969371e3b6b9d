"""examples/boxes.py from files to its table and its picture."""

import json
from pathlib import Path

import boxes
import pytest
from helpers.digit_boxes import write_split
from PIL import Image

import convatlas as ca
from convatlas.errors import UsageError, UserError


@pytest.mark.slow
def test_the_table_shows_what_regression_and_shuffling_do(
    digit_boxes: Path, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "boxes.png"
    numbers = tmp_path / "boxes.json"
    boxes.main(digit_boxes, trained_run, tmp_path / "detector", context=4, picture=picture, json=numbers)
    output = capsys.readouterr().out
    for text in ("45 training and 12 test images of 3 classes", "recall of the proposals: ", "propose "):
        assert text in output
    rows = {
        line[:24].strip(): float(line[24:].split()[0])
        for line in output.splitlines()
        if line.startswith(("with", "shuffled")) and "minus" not in line
    }
    assert [*rows] == [
        "without regression",
        "with regression",
        "with regression, twice",
        "shuffled features",
    ]
    assert rows["with regression"] > rows["shuffled features"] + 20
    (line,) = (line for line in output.splitlines() if line.startswith("with regression minus shuffled"))
    assert float(line.split("(")[1].split(" to ")[0]) > 0
    document = json.loads(numbers.read_text())
    assert {row["name"]: round(row["ap50"], 1) for row in document["rows"]} == rows
    for row in document["rows"]:
        for score in ("ap50", "mean_iou"):
            low, high = row[f"{score}_interval"]
            assert low <= row[score] <= high
    shuffled = document["differences"][1]
    assert shuffled["mean_iou_interval"][0] > 0
    with Image.open(picture) as image:
        assert image.width > 4 * 90
        assert image.height > 3 * 72
    document = ca.evaluate(tmp_path / "detector")
    assert document["data"] == f"folder:{digit_boxes}"
    assert round(document["ap50"], 1) == rows["with regression"]
    with pytest.raises(UsageError, match="holds a model already"):
        boxes.main(digit_boxes, trained_run, tmp_path / "detector", context=4, picture=picture)


def test_bad_annotations_stop_it_before_any_training(
    digit_boxes: Path, trained_run: Path, tmp_path: Path
) -> None:
    write_split(tmp_path / "train", 3, 0)
    write_split(tmp_path / "test", 3, 0)
    file = tmp_path / "test" / "boxes.json"
    file.write_text(file.read_text().replace('"bbox": [', '"bbox": [500, ', 1))
    with pytest.raises(
        UserError, match=r"test/boxes\.json, annotations\[0\] \(image 0\): the box .* not finite"
    ):
        boxes.main(tmp_path, trained_run, context=4)
