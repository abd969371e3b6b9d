"""A detector in a file: the same detections bit for bit, and nothing that the file only claims to hold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from helpers.digit_boxes import CLASSES, HEIGHT, WIDTH, train_on
from PIL import Image

import convatlas as ca
from convatlas.boxes.detector_file import holds_detector
from convatlas.boxes.rcnn import FitScorer
from convatlas.classifier import Classifier
from convatlas.errors import UsageError, UserError
from convatlas.storage.checked_safetensors import read_checked, write_checked


def images_of(folder: Path, count: int = 3) -> list[Path]:
    return [folder / "test" / "images" / f"{number}.png" for number in range(count)]


@pytest.mark.parametrize("fit", [ca.boxes.fit_softmax_scorer, ca.boxes.fit_svm_scorer])
def test_a_detector_that_is_read_back_detects_the_same_bit_for_bit(
    digit_boxes: Path, trained: Classifier, tmp_path: Path, fit: FitScorer
) -> None:
    detector = train_on(digit_boxes, trained, fit)
    file = detector.save(tmp_path / "new" / "detector")
    assert file == tmp_path / "new" / "detector" / "model.safetensors"
    for path in (file, file.parent, str(file)):
        again = ca.Detector(path)
        assert again.metadata == detector.metadata
        assert again.classes == CLASSES
        assert again.pairs == detector.pairs
        assert repr(again) == repr(detector)
        for image in images_of(digit_boxes):
            for expected, values in zip(detector.detect(image), again.detect(image), strict=True):
                assert len(expected) > 1
                np.testing.assert_array_equal(values, expected)
    assert (again.save(tmp_path / "copy.safetensors")).read_bytes() == file.read_bytes()
    with pytest.raises(UsageError, match="already exists"):
        detector.save(file)


def test_it_detects_what_is_there(detector: ca.Detector, digit_boxes: Path) -> None:
    (image,) = images_of(digit_boxes, 1)
    boxes, scores, labels = detector.detect(image, max_detections=4)
    assert len(boxes) == len(scores) == len(labels) == 4
    assert (np.diff(scores) <= 0).all()
    truth = ca.boxes.open_boxes(f"folder:{digit_boxes}").splits["test"].images[0]
    assert ca.boxes.iou(boxes[:1], truth.boxes)[0, 0] > 0.5
    assert labels[0] == truth.labels[0]
    with Image.open(image) as picture:
        np.testing.assert_array_equal(detector.detect(picture).boxes, detector.detect(image).boxes)
    confident = detector.detect(image, min_score=float(scores[1]))
    assert confident.scores.min() > scores[1]
    with pytest.raises(UserError, match="nothing"):
        detector.detect(digit_boxes / "nothing.png")


def test_boxes_of_an_image_that_is_decoded_smaller_are_in_its_own_pixels(
    detector: ca.Detector, digit_boxes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = images_of(digit_boxes, 1)
    monkeypatch.setattr("convatlas.data.images.decode.MAX_PIXELS", WIDTH * HEIGHT - 1)
    ((_, detected),) = detector.detect_iter([image])
    assert not isinstance(detected, UserError)
    assert detected.pixels.shape[:2] == (HEIGHT // 2, WIDTH // 2)
    assert detected.scale == 2
    assert detected.detections.boxes[:, 2].max() > WIDTH // 2
    annotated = ca.boxes.open_boxes(f"folder:{digit_boxes}").splits["test"].images[0]
    with pytest.raises(UserError, match="make it smaller"):
        annotated.decode()


def test_networks_and_detectors_are_not_taken_for_each_other(
    detector_folder: Path, trained_run: Path, tmp_path: Path
) -> None:
    assert holds_detector(detector_folder)
    assert holds_detector(detector_folder / "model.safetensors")
    for other in (trained_run, tmp_path, tmp_path / "nowhere", Path(__file__)):
        assert not holds_detector(other)
    with pytest.raises(UsageError, match=r"holds a network and no detector: ca\.load"):
        ca.Detector(trained_run)
    with pytest.raises(UsageError, match=r"holds a detector: ca\.Detector"):
        ca.load(detector_folder)
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        ca.Detector(tmp_path)


@pytest.mark.parametrize("position", [0.2, 0.6, 0.999])
def test_a_damaged_file_is_refused(detector_folder: Path, tmp_path: Path, position: float) -> None:
    data = bytearray((detector_folder / "model.safetensors").read_bytes())
    data[int(len(data) * position)] ^= 4
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        ca.Detector(file)
    file.write_bytes(data[: len(data) // 3])
    with pytest.raises(UserError, match="damaged"):
        ca.Detector(file)


Change = Callable[[dict[str, torch.Tensor], dict[str, Any]], None]


def drop(name: str) -> Change:
    return lambda tensors, document: tensors.__delitem__(name)


def replaced(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda tensors, document: tensors.__setitem__(name, change(tensors[name]))


def described(path: str, value: object) -> Change:
    def change(tensors: dict[str, torch.Tensor], document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            document = document[key]
        document[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop("regressors"), "does not hold the detector that its metadata describes"),
        (replaced("scorer.weights", lambda w: w[:, :-1].clone()), "does not hold the detector"),
        (replaced("scorer.weights", lambda w: w.float()), "does not hold the detector"),
        (replaced("scorer.biases", lambda w: w * float("nan")), "weights that are not finite"),
        (drop("network.C1.0.weight"), "does not hold the weights of the lenet5"),
        (replaced("network.preprocessing.mean", lambda w: w[:0].clone()), "does not hold the preprocessing"),
        (described("scorer", "svm"), "does not hold the detector"),
        (described("scale", 0.0), "weights that are not finite"),
        (described("regressed", [0, 1, 7]), "regressors of other classes"),
        (described("classes", ["zero", "zero", "two"]), "names a class twice"),
        (described("format", 9), "format version 9"),
        (described("network.format", 9), "format version 9"),
        (described("regions.layer", "conv9"), "does not describe its regions: unknown module"),
        (described("regions.context", 99), "does not describe its regions: context is 99"),
        (described("regions.proposals.step", 1e-9), r">= 0.05"),
        (described("regions.proposals.type", "magic"), "magic"),
        (described("more", 1), "more"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    detector_folder: Path, tmp_path: Path, change: Change, reason: str
) -> None:
    tensors, content = read_checked(detector_folder / "model.safetensors")
    document = json.loads(content)
    change(tensors, document)
    file = tmp_path / "model.safetensors"
    write_checked(file, tensors, msgspec.Raw(json.dumps(document).encode()))
    with pytest.raises(UserError, match=reason):
        ca.Detector(file)


def test_what_no_file_can_hold_is_refused(detector: ca.Detector, digit_boxes: Path) -> None:
    extractor = detector.extractor
    annotated = ca.boxes.open_boxes(f"folder:{digit_boxes}").splits["train"].images[:6]
    images = [extractor.training_image(image) for image in annotated]
    with pytest.raises(UsageError, match="a name twice"):
        ca.boxes.train_detector(extractor, images, ["a", "a", "b"])
    with pytest.raises(UsageError, match="holds the scorers of fit_softmax_scorer"):
        ca.boxes.train_detector(extractor, images, CLASSES, lambda *_: lambda features: features[:, :3])
    with pytest.raises(UserError, match="no object of class 3"):
        ca.boxes.train_detector(extractor, images, [*CLASSES, "three"])


def test_training_regions_are_the_objects_what_overlaps_them_and_some_background(
    detector: ca.Detector, digit_boxes: Path
) -> None:
    image = ca.boxes.open_boxes(f"folder:{digit_boxes}").splits["train"].images[0]
    regions, truths = detector.extractor.training_image(image, background=5)
    proposals = detector.extractor.proposals(detector.extractor.decode(image))
    overlapping = proposals[ca.boxes.iou(proposals, image.boxes).max(axis=1) >= 0.3]
    np.testing.assert_array_equal(regions.boxes[: 1 + len(overlapping)], [*image.boxes, *overlapping])
    background = regions.boxes[1 + len(overlapping) :]
    assert len(background) == 5
    assert ca.boxes.iou(background, image.boxes).max() < 0.3
    np.testing.assert_array_equal(truths.boxes, image.boxes)
    assert str(detector.extractor.seconds).count(" ") > 5
