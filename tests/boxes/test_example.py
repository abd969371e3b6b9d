"""examples/boxes.py from files to its table and its picture."""

import json
from pathlib import Path

import boxes
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from convatlas.errors import UserError

CLASSES = ("zero", "one", "two")


def write_split(folder: Path, count: int, seed: int) -> None:
    """Digits on dark noise, with their boxes in COCO's format."""
    rng = np.random.default_rng(seed)
    digits = load_digits(n_class=len(CLASSES))
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        pixels = rng.integers(0, 40, (72, 90)).astype(np.uint8)
        row = np.flatnonzero(digits.target == number % len(CLASSES))[rng.integers(150)]
        side = int(rng.integers(34, 52))
        left, top = (int(rng.integers(0, room - side)) for room in (90, 72))
        digit = Image.fromarray((digits.images[row] * 15.9).astype(np.uint8)).resize((side, side))
        pixels[top : top + side, left : left + side] |= np.asarray(digit)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"images/{number}.png", "width": 90, "height": 72})
        annotations.append(
            {
                "image_id": number,
                "category_id": number % len(CLASSES),
                "bbox": [left, top, side, side],
                "iscrowd": 0,
            }
        )
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def digit_boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    write_split(folder / "train", 60, 0)
    write_split(folder / "test", 24, 1)
    return folder


@pytest.mark.slow
def test_the_table_shows_what_regression_and_shuffling_do(
    digit_boxes: Path, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "boxes.png"
    numbers = tmp_path / "boxes.json"
    boxes.main(digit_boxes, trained_run, proposals="sliding", context=4, picture=picture, json=numbers)
    output = capsys.readouterr().out
    for text in ("60 training and 24 test images of 3 classes", "recall of the proposals: ", "propose "):
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
        assert image.size == (4 * 98 + 8, 3 * 80 + 8)


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
        boxes.main(tmp_path, trained_run, proposals="sliding", context=4)
