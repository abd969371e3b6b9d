"""The detector: its training examples, its hard negatives, and a whole R-CNN on digits that are placed on
noise."""

from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

import convatlas as ca
from convatlas.boxes import Regions, TrainingImage, truths
from convatlas.boxes.detections import Detections, Truths
from convatlas.boxes.linear import fit_svm
from convatlas.boxes.rcnn import feature_scale
from convatlas.boxes.region_sets import BACKGROUND, UNUSED, is_negative_of, region_labels
from convatlas.boxes.scorers import SVM_NEGATIVE_IOU
from convatlas.classifier import Classifier
from convatlas.errors import UsageError, UserError

CLASSES = 3
SIDE = 96


def test_a_region_is_an_example_of_what_it_overlaps() -> None:
    there = truths([[0, 0, 10, 10], [50, 0, 60, 10], [0, 50, 20, 70]], [2, 1, 0], [False, False, True])
    boxes = np.array(
        [
            [0, 0, 10, 9],  # on the first
            [0, 0, 10, 4],  # on it, by 0.4
            [50, 0, 60, 6],  # on the second, by 0.6
            [0, 50, 20, 68],  # on the crowd
            [2, 55, 8, 60],  # a small part of it
            [80, 80, 90, 90],
        ],
        float,
    )
    labels = region_labels(boxes, there, positive_iou=0.5, negative_iou=0.3)
    assert labels.tolist() == [2, UNUSED, 1, UNUSED, UNUSED, BACKGROUND]
    assert is_negative_of(boxes, there, 2, 0.3).tolist() == [False, False, True, False, False, True]
    assert region_labels(boxes, truths([], []), 0.5, 0.5).tolist() == [BACKGROUND] * 6


def feature_images(seed: int, images: int = 30) -> list[TrainingImage]:
    """Regions whose features are a noisy code of the class that they show."""
    rng = np.random.default_rng(seed)
    found = []
    for image in range(images):
        labels = np.array([image % CLASSES, int(rng.integers(CLASSES))])
        objects = np.array([[5.0, 5, 25, 25], [60, 60, 90, 80]])
        stray = rng.uniform(0, 60, (40, 2))
        boxes = np.vstack([objects, np.hstack([stray, stray + rng.uniform(10, 35, (40, 2))])])
        codes = np.vstack([np.eye(CLASSES)[labels], np.zeros((40, CLASSES))])
        features = np.hstack([codes, np.ones((42, 1))]) + rng.normal(0, 0.45, (42, CLASSES + 1))
        found.append(TrainingImage(Regions(boxes, features.astype(np.float32)), truths(objects, labels)))
    return found


@settings(max_examples=10)
@given(st.integers(0, 100))
def test_the_machine_of_mined_negatives_is_that_of_all_negatives(seed: int) -> None:
    """What lies below the margin has no loss: the machine that leaves it out is at the same minimum."""
    images = feature_images(seed)
    mined = ca.boxes.fit_svm_scorer(images, CLASSES, cost=0.05, epochs=6)
    for label in range(CLASSES):
        positives = [item.regions.features[:2][item.truths.labels == label] for item in images]
        negatives = [
            item.regions.features[is_negative_of(item.regions.boxes, item.truths, label, SVM_NEGATIVE_IOU)]
            for item in images
        ]
        rows = np.concatenate(positives + negatives)
        is_positive = np.arange(len(rows)) < sum(map(len, positives))
        every = fit_svm(rows, is_positive, 0.05)
        np.testing.assert_allclose(mined(rows)[:, label], every(rows)[:, 0], atol=2e-3)


def test_a_class_without_an_object_is_refused() -> None:
    images = [item for item in feature_images(0) if 2 not in item.truths.labels]
    for fit in (ca.boxes.fit_svm_scorer, ca.boxes.fit_softmax_scorer):
        with pytest.raises(UserError, match="no object of class 2 is among the training images"):
            fit(images, CLASSES)
    dead = [TrainingImage(Regions(a.boxes, 0 * a.features), b) for a, b in images]
    with pytest.raises(UserError, match="are all 0 or not finite"):
        ca.boxes.train_rcnn(dead, CLASSES, ca.boxes.fit_softmax_scorer)


def test_features_are_scaled_to_a_mean_norm_of_20() -> None:
    images = feature_images(0)
    scale = feature_scale(images)
    norms = np.concatenate([np.linalg.norm(scale * item.regions.features, axis=1) for item in images])
    assert norms.mean() == pytest.approx(20, rel=1e-5)


class Scene(NamedTuple):
    pixels: NDArray[np.uint8]
    truths: Truths
    proposals: NDArray[np.float64]


def digit_scene(seed: int) -> Scene:
    """One or two of the digits 0, 1 and 2 on dark noise, and proposals around them and elsewhere."""
    rng = np.random.default_rng(seed)
    digits = load_digits(n_class=CLASSES)
    pixels = rng.integers(0, 40, (SIDE, SIDE, 1)).astype(np.uint8)
    boxes, labels = [], []
    for corner in ((2, 2), (48, 46))[: int(rng.integers(1, 3))]:
        side = int(rng.integers(26, 44))
        row = int(rng.integers(len(digits.images)))
        digit = Image.fromarray((digits.images[row] * 15.9).astype(np.uint8)).resize((side, side))
        left, top = (int(value + rng.integers(0, 46 - side)) for value in corner)
        patch = pixels[top : top + side, left : left + side, 0]
        np.maximum(patch, np.asarray(digit), out=patch)
        boxes.append([left, top, left + side, top + side])
        labels.append(digits.target[row])
    objects = np.array(boxes, float)
    near = ca.boxes.decode(np.repeat(objects, 12, 0), rng.normal(0, 0.13, (12 * len(objects), 4)))
    stray = rng.uniform(0, 60, (20, 2))
    proposals = ca.boxes.clip(np.vstack([near, np.hstack([stray, stray + 35])]), (SIDE, SIDE))
    return Scene(pixels, truths(objects, labels), proposals)


@pytest.fixture(scope="module")
def extract(trained: Classifier) -> ca.boxes.RegionFeatures:
    return ca.boxes.RegionFeatures(trained, context=4)


class Trained(NamedTuple):
    training: list[TrainingImage]
    scenes: list[Scene]
    regions: list[Regions]


@pytest.fixture(scope="module")
def digit_set(extract: ca.boxes.RegionFeatures) -> Trained:
    training = []
    for scene in map(digit_scene, range(90)):
        boxes = np.vstack([scene.truths.boxes, scene.proposals])
        training.append(TrainingImage(Regions(boxes, extract(scene.pixels, boxes)), scene.truths))
    scenes = [digit_scene(seed) for seed in range(1000, 1060)]
    regions = [Regions(scene.proposals, extract(scene.pixels, scene.proposals)) for scene in scenes]
    return Trained(training, scenes, regions)


def detect(detector: ca.boxes.RCNN, regions: list[Regions], regression: bool = True) -> list[Detections]:
    return [detector.detect(item, (SIDE, SIDE), regression) for item in regions]


@pytest.mark.parametrize("fit", [ca.boxes.fit_softmax_scorer, ca.boxes.fit_svm_scorer])
def test_a_whole_rcnn_beats_itself_with_shuffled_features_by_more_than_the_interval(
    digit_set: Trained, fit: object
) -> None:
    there = [scene.truths for scene in digit_set.scenes]
    detector = ca.boxes.train_rcnn(digit_set.training, CLASSES, fit)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    shuffled = [
        TrainingImage(Regions(a.boxes, rng.permutation(a.features)), b) for a, b in digit_set.training
    ]
    control = ca.boxes.train_rcnn(shuffled, CLASSES, fit)  # type: ignore[arg-type]
    shuffled_regions = [Regions(item.boxes, rng.permutation(item.features)) for item in digit_set.regions]
    found = ca.boxes.match_detections(detect(detector, digit_set.regions), there, CLASSES)
    useless = ca.boxes.match_detections(detect(control, shuffled_regions), there, CLASSES)
    low = np.percentile(found.bootstrap(200) - useless.bootstrap(200), 2.5)
    assert low > 20
    assert found.mean() > 60


def test_box_regression_brings_detections_nearer_to_the_objects(
    digit_set: Trained, extract: ca.boxes.RegionFeatures
) -> None:
    there = [scene.truths for scene in digit_set.scenes]
    regressor = ca.boxes.BoxRegressor(ridge=100.0)  # the set is small
    detector = ca.boxes.train_rcnn(digit_set.training, CLASSES, ca.boxes.fit_softmax_scorer, regressor)
    assert {*detector.regressors} == {*regressor.pairs} == {*range(CLASSES)}
    moved = detect(detector, digit_set.regions)
    scores = [
        ca.boxes.coco_average_precision(found, there, CLASSES)
        for found in (detect(detector, digit_set.regions, regression=False), moved)
    ]
    assert scores[1] > scores[0] + 3
    for scene, found in zip(digit_set.scenes[:5], moved, strict=False):
        again = detector.refine(found, partial(extract, scene.pixels), (SIDE, SIDE))
        assert len(again.boxes) <= len(found.boxes)
        assert (again.boxes[:, 2:] > again.boxes[:, :2]).all()
        assert (again.boxes >= 0).all()
        assert (again.boxes <= SIDE).all()
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    assert len(detector.refine(nothing, partial(extract, digit_set.scenes[0].pixels), (9, 9))[0]) == 0


def test_a_class_without_pairs_keeps_its_boxes(digit_set: Trained) -> None:
    detector = ca.boxes.train_rcnn(
        digit_set.training, CLASSES, ca.boxes.fit_softmax_scorer, ca.boxes.BoxRegressor(min_iou=0.9999999)
    )
    for label in range(CLASSES):
        assert label in detector.regressors  # each object's own box
    unfitted = ca.boxes.RCNN(CLASSES, detector.scale, detector.scorer, {})
    for regression in (True, False):
        found = detect(unfitted, digit_set.regions[:3], regression)
        proposals = [{*map(tuple, item.boxes.tolist())} for item in digit_set.regions[:3]]
        for item, boxes in zip(found, proposals, strict=True):
            assert {*map(tuple, item.boxes.tolist())} <= boxes


def test_region_features_are_the_maps_of_the_warped_regions(
    trained: Classifier, extract: ca.boxes.RegionFeatures
) -> None:
    scene = digit_scene(0)
    regions = ca.boxes.warp(scene.pixels, scene.proposals, (32, 32), 4, extract.fill)
    maps = trained.features(regions, [extract.path])[extract.path]
    features = extract(scene.pixels, scene.proposals)
    assert features.shape == (len(scene.proposals), extract.dimension)
    np.testing.assert_allclose(features, maps.flatten(1).numpy(), atol=1e-5)
    assert extract(scene.pixels, np.zeros((0, 4))).shape == (0, extract.dimension)


@pytest.mark.parametrize(
    ("name", "size", "path", "side"),
    [("alexnet", 99, "pool5", 2), ("vgg11", 64, "pool5", 2), ("resnet20_cifar", 32, "conv4_x", 6)],
)
def test_the_layer_is_pool5_or_the_last_with_maps(name: str, size: int, path: str, side: int) -> None:
    model = ca.create_model(name, num_classes=2, image_size=size, width=0.125)
    classifier = Classifier.from_module(model, ["a", "b"], size, mean=0.5, std=0.25)
    extract = ca.boxes.RegionFeatures(classifier, context=4)
    assert extract.path == path
    assert extract.dimension % side**2 == 0
    assert extract.fill == (128, 128, 128)
    with pytest.raises(UsageError, match="unknown module"):
        ca.boxes.RegionFeatures(classifier, path="pool9", context=4)
