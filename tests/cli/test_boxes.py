"""`eval` and `predict` of a detector, which they choose by the file's own description."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convatlas as ca
from convatlas.cli.main import main


def test_eval_prints_scores_with_intervals_and_writes_its_report(
    detector_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(detector_folder), "--out", str(tmp_path / "report")]) == 0
    lines = capsys.readouterr().out.splitlines()
    document = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert lines[0].startswith(f"AP@0.5 {document['ap50']:.2f} %, 95 % interval ")
    assert lines[0].endswith("12 images with 12 objects")
    assert lines[1].startswith(f"mean IoU {document['mean_iou']:.2f} %, 95 % interval ")
    rows = {line.split()[0]: line.split()[1:] for line in lines[4:-1]}
    assert rows["class"] == ["objects", "AP@0.5", "%"]
    assert rows["two"] == ["4", f"{document['per_class'][2]['ap50']:.2f}"]
    page = (tmp_path / "report" / "report.md").read_text()
    assert f"**AP@0.5 {document['ap50']:.2f} %**" in page
    assert f"| two | 4 | {document['per_class'][2]['ap50']:.2f} |" in page
    assert main(["eval", str(detector_folder), "--split", "val", "--json"]) == 0
    assert {"ap50", "mean_iou", "n"} <= {*json.loads(capsys.readouterr().out)}


def test_eval_exits_with_1_where_images_are_not_counted(
    detector_folder: Path, digit_boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(digit_boxes, tmp_path / "data")
    (tmp_path / "data" / "test" / "images" / "7.png").write_bytes(b"")
    assert main(["eval", str(detector_folder), "--data", f"folder:{tmp_path / 'data'}"]) == 1
    captured = capsys.readouterr()
    assert "11 images" in captured.out
    file = tmp_path / "data" / "test" / "images" / "7.png"
    assert f"not counted: {file}: the file is empty" in captured.err


def test_predict_writes_boxes_and_pictures_and_names_what_it_cannot_read(
    detector_folder: Path,
    detector: ca.Detector,
    digit_boxes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = digit_boxes / "test" / "images" / "0.png"
    other = digit_boxes / "train" / "images" / "0.png"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    out = tmp_path / "out"
    command = ["predict", str(detector_folder), str(image), str(broken), str(other), "--out", str(out)]
    assert main([*command, "--json", "--top", "3"]) == 1
    first, failed, second = json.loads(capsys.readouterr().out)
    assert failed == {"file": str(broken), "error": failed["error"]}
    assert "not a readable" in failed["error"]
    boxes, scores, labels = detector.detect(image, max_detections=3)
    assert first["file"] == str(image)
    assert first["boxes"] == [
        {"class": detector.classes[label], "score": score, "box": box}
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
    ]
    assert first["picture"] == str(out / "0.boxes.png")
    assert second["picture"] == str(out / "0-2.boxes.png")  # not over the first
    with Image.open(image) as plain, Image.open(first["picture"]) as drawn:
        difference = np.abs(np.asarray(plain.convert("RGB"), int) - np.asarray(drawn, int)).max(axis=2)
    x1, _, x2, y2 = (round(value) for value in first["boxes"][0]["box"])
    assert (difference[y2 - 3 : y2 + 2, x1:x2].max(axis=0) > 0).all()  # its lower edge
    assert main(command) == 1
    captured = capsys.readouterr()
    assert f"{first['boxes'][0]['class']} {first['boxes'][0]['score']:.2f}, " in captured.out
    assert str(out / "0.boxes.png") in captured.out
    assert captured.err.startswith(f"convatlas: {broken}: not a readable")


def test_options_and_files_that_are_not_for_detectors_are_refused(
    detector_folder: Path, digit_boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(digit_boxes / "test" / "images" / "0.png")
    assert main(["predict", str(detector_folder), image, "--engine", "onnx"]) == 2
    assert "leave out --engine onnx" in capsys.readouterr().err
    for command in (["visualize"], ["export", "--to", "onnx"]):
        assert main([command[0], str(detector_folder), *command[1:]]) == 2
        assert "holds a detector: ca.Detector(PATH) opens it" in capsys.readouterr().err
    data = bytearray((detector_folder / "model.safetensors").read_bytes())
    data[-9] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    for words in (["eval"], ["predict"]):
        assert main([words[0], str(tmp_path), *([image] if words == ["predict"] else [])]) == 1
        assert "is damaged: its content does not match its SHA-256" in capsys.readouterr().err


def test_data_check_and_info_know_boxes(
    digit_boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"folder:{digit_boxes}"
    assert main(["data", "check", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "objects by class"
    assert lines[1].split() == ["class", "train", "val", "test"]
    assert lines[2].split() == ["zero", "15", "1", "4"]
    assert "60 images with the boxes of 60 objects; all 90x72" in lines
    assert lines[-1].startswith(f"next: ca.boxes.open_boxes('{name}')")
    assert main(["data", "info", name, "--png", str(tmp_path / "sheet.png"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["boxes"]["classes"]["zero"] == {"train": 15, "val": 1, "test": 4}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 8 * 90
    assert main(["data", "split", name]) == 2
    assert "holds boxes, which a manifest cannot" in capsys.readouterr().err
    assert main(["data", "info", name, "--model", "lenet5"]) == 2
    assert "holds boxes, which no network of --model trains on" in capsys.readouterr().err


def test_data_check_and_info_find_both_masks_and_boxes(
    digit_boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(digit_boxes, tmp_path / "data")
    for image in (tmp_path / "data").glob("*/images/*.png"):
        mask = image.parent.parent / "masks" / image.name
        mask.parent.mkdir(exist_ok=True)
        with Image.open(image) as pixels:
            Image.fromarray((np.asarray(pixels) > 60).astype(np.uint8)).save(mask)
    file = tmp_path / "data" / "test" / "boxes.json"
    file.write_text(file.read_text().replace('"category_id": 1', '"category_id": 7', 1))
    name = f"folder:{tmp_path / 'data'}"
    assert main(["data", "check", name, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["classes"]["1"] == {"train": 45, "val": 3, "test": 12}  # of the masks
    assert document["boxes"]["classes"]["one"] == {"train": 15, "val": 1, "test": 3}
    assert document["training_error"] is document["boxes"]["training_error"] is None
    assert document["bad"] == [
        {
            "file": f"{file}, annotations[1] (image 1)",
            "reason": "its category_id 7 is not among the categories",
        }
    ]
    assert main(["data", "info", name]) == 0
    captured = capsys.readouterr().out
    assert captured.index("60 images of 1 channel") < captured.index("\nboxes\n")
    assert "1 annotations cannot be used: convatlas data check lists them" in captured
    assert f"next: convatlas train MODEL --data {name}" in captured
