"""Average precision against pycocotools, and against the VOC development kit's loop, transcribed."""

import contextlib
import io
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from helpers.peers import import_or_skip
from hypothesis import given
from hypothesis import strategies as st

import convatlas as ca
from convatlas.boxes import bootstrap
from convatlas.boxes.average_precision import COCO_THRESHOLDS, Definition
from convatlas.boxes.detections import Detections, Truths, detections, truths
from convatlas.boxes.matching import crowd_overlaps
from convatlas.errors import UsageError

CLASSES = 3


def random_scene(
    seed: int, images: int = 12, crowds: bool = True, ties: bool = False
) -> tuple[list[Detections], list[Truths]]:
    """Objects, and detections near them, of wrong classes, twice, or of nothing."""
    rng = np.random.default_rng(seed)
    found, there = [], []
    for _ in range(images):
        n = int(rng.integers(0, 6))
        corners = rng.uniform(0, 60, (n, 2))
        boxes = np.hstack([corners, corners + rng.uniform(8, 40, (n, 2))])
        labels = rng.integers(0, CLASSES, n)
        there.append(truths(boxes, labels, (rng.random(n) < 0.2) & crowds))
        near = rng.integers(0, max(n, 1), 3 * n)
        moved = boxes[near] + rng.normal(0, 4, (3 * n, 4)) if n else np.zeros((0, 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        stray = rng.uniform(0, 60, (3, 2))
        all_boxes = np.vstack([moved, np.hstack([stray, stray + 20])])
        m = len(all_boxes)
        of = np.concatenate([labels[near] if n else labels, rng.integers(0, CLASSES, 3)])
        of = np.where(rng.random(m) < 0.2, rng.integers(0, CLASSES, m), of)
        scores = rng.integers(0, 5, m) / 4 if ties else rng.random(m)
        found.append(detections(all_boxes, scores, of))
    return found, there


def pycocotools_ap(found: list[Detections], there: list[Truths]) -> np.ndarray[Any, Any]:
    """(thresholds, classes), in percent; NaN for a class without an object."""
    import_or_skip("pycocotools")
    coco_module, eval_module = (import_module(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(there))],
            "categories": [{"id": label} for label in range(CLASSES)],
            "annotations": [
                {
                    "id": 1000 * image + number + 1,
                    "image_id": image,
                    "category_id": int(truth.labels[number]),
                    "bbox": [*box[:2], *(box[2:] - box[:2])],
                    "area": float((box[2:] - box[:2]).prod()),
                    "iscrowd": int(truth.ignored[number]),
                }
                for image, truth in enumerate(there)
                for number, box in enumerate(truth.boxes)
            ],
        }
        coco.createIndex()
        results = coco.loadRes(
            [
                {
                    "image_id": image,
                    "category_id": int(item.labels[number]),
                    "bbox": [*box[:2], *(box[2:] - box[:2])],
                    "score": float(item.scores[number]),
                }
                for image, item in enumerate(found)
                for number, box in enumerate(item.boxes)
            ]
        )
        run = eval_module.COCOeval(coco, results, "bbox")
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, 2]  # (thresholds, recalls, classes): all areas, 100 a class
    return np.where((precision < 0).any(axis=1), np.nan, 100 * precision.mean(axis=1))


@pytest.mark.parametrize("seed", range(12))
def test_cocos_definition_is_that_of_pycocotools(seed: int) -> None:
    found, there = random_scene(seed, ties=seed % 2 == 1)
    expected = pycocotools_ap(found, there)
    for threshold, row in zip(COCO_THRESHOLDS, expected, strict=True):
        outcomes = ca.boxes.match_detections(found, there, CLASSES, "coco", threshold)
        np.testing.assert_allclose(outcomes.by_class(), row, atol=1e-9)
    assert ca.boxes.coco_average_precision(found, there, CLASSES) == pytest.approx(np.nanmean(expected))


def test_cocos_definition_takes_a_hundred_detections_of_a_class_in_an_image() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 500, (150, 2))
    boxes = np.hstack([corners, corners + 20])
    found = [detections(boxes, rng.random(150), np.zeros(150, int))]
    there = [truths(boxes, np.zeros(150, int))]
    expected = pycocotools_ap(found, there)[0, 0]
    value = ca.boxes.average_precision(found, there, 1, "coco")
    assert value == pytest.approx(expected)
    assert value < 70 < ca.boxes.average_precision(found, there, 1, "voc12")


def voc_devkit_ap(
    found: list[Detections], there: list[Truths], label: int, threshold: float, eleven_points: bool
) -> float:
    """VOCevaldet.m, line by line, with areas of the continuous plane."""
    rows = [
        (float(score), image, box)
        for image, item in enumerate(found)
        for box, score, of in zip(item.boxes, item.scores, item.labels, strict=True)
        if of == label
    ]
    rows.sort(key=lambda row: -row[0])
    npos = sum(int(((item.labels == label) & ~item.ignored).sum()) for item in there)
    if not npos:
        return float("nan")
    det: dict[tuple[int, int], bool] = {}
    tp, fp = np.zeros(len(rows)), np.zeros(len(rows))
    for d, (_, image, bb) in enumerate(rows):
        ovmax, jmax = -np.inf, -1
        for j, bbgt in enumerate(there[image].boxes):
            if there[image].labels[j] != label:
                continue
            bi = [max(bb[0], bbgt[0]), max(bb[1], bbgt[1]), min(bb[2], bbgt[2]), min(bb[3], bbgt[3])]
            iw, ih = bi[2] - bi[0], bi[3] - bi[1]
            if iw > 0 and ih > 0:
                ua = (bb[2] - bb[0]) * (bb[3] - bb[1]) + (bbgt[2] - bbgt[0]) * (bbgt[3] - bbgt[1]) - iw * ih
                if iw * ih / ua > ovmax:
                    ovmax, jmax = iw * ih / ua, j
        if ovmax >= threshold:
            if not there[image].ignored[jmax]:
                if not det.get((image, jmax)):
                    tp[d], det[image, jmax] = 1, True
                else:
                    fp[d] = 1
        else:
            fp[d] = 1
    tp, fp = np.cumsum(tp), np.cumsum(fp)
    rec, prec = tp / npos, np.divide(tp, fp + tp, out=np.zeros_like(tp), where=fp + tp > 0)
    if eleven_points:
        ap = 0.0
        for t in range(11):
            reached = prec[rec >= t / 10 - 1e-12]
            ap += (reached.max() if len(reached) else 0) / 11
        return 100 * float(ap)
    mrec, mpre = np.r_[0, rec, 1], np.r_[0, prec, 0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    changes = np.flatnonzero(mrec[1:] != mrec[:-1]) + 1
    return 100 * float(((mrec[changes] - mrec[changes - 1]) * mpre[changes]).sum())


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.3, 0.5, 0.7]))
def test_vocs_definitions_are_those_of_its_development_kit(seed: int, ties: bool, threshold: float) -> None:
    found, there = random_scene(seed, images=6, ties=ties)
    for definition in ("voc07", "voc12"):
        outcomes = ca.boxes.match_detections(found, there, CLASSES, definition, threshold)
        expected = [
            voc_devkit_ap(found, there, label, threshold, definition == "voc07") for label in range(CLASSES)
        ]
        np.testing.assert_allclose(outcomes.by_class(), expected, atol=1e-9)


def test_images_that_count_twice_are_images_that_are_there_twice() -> None:
    found, there = random_scene(3)
    weights = np.random.default_rng(0).integers(0, 4, len(there))
    rows = np.repeat(np.arange(len(there)), weights)
    for definition in ("voc07", "voc12", "coco"):
        outcomes = ca.boxes.match_detections(found, there, CLASSES, definition)
        repeated = ca.boxes.match_detections(
            [found[row] for row in rows],
            [there[row] for row in rows],
            CLASSES,
            definition,
        )
        np.testing.assert_allclose(outcomes.by_class(weights), repeated.by_class(), atol=1e-9)


def test_the_bootstrap_interval_holds_the_value_and_narrows_with_more_images() -> None:
    def interval(images: int) -> tuple[float, float, float]:
        found, there = random_scene(5, images, crowds=False)
        outcomes = ca.boxes.match_detections(found, there, CLASSES)
        low, high = np.percentile(outcomes.bootstrap(200), [2.5, 97.5])
        return low, outcomes.mean(), high

    few, many = interval(15), interval(240)
    for low, value, high in (few, many):
        assert low < value < high
    assert many[2] - many[0] < (few[2] - few[0]) / 2  # a quarter in expectation


def test_perfect_and_useless_detections() -> None:
    _, there = random_scene(1, crowds=False)
    perfect = [detections(item.boxes, np.ones(len(item.boxes)), item.labels) for item in there]
    none = [detections([], [], []) for _ in there]
    definitions: tuple[Definition, ...] = ("voc07", "voc12", "coco")
    for definition in definitions:
        assert ca.boxes.average_precision(perfect, there, CLASSES, definition) == pytest.approx(100)
        assert ca.boxes.average_precision(none, there, CLASSES, definition) == 0
    assert ca.boxes.box_scores(perfect, there, CLASSES) == {
        "ap50": pytest.approx(100),
        "ap50_interval": pytest.approx((100, 100)),
        "mean_iou": pytest.approx(100),
        "mean_iou_interval": pytest.approx((100, 100)),
        "n": 12,
    }
    assert ca.boxes.mean_iou(none, there) == 0
    assert np.isnan(ca.boxes.average_precision(none, [truths([], [])] * 12, CLASSES))


def test_the_mean_iou_counts_what_is_missed_as_0() -> None:
    there = [truths([[0, 0, 10, 10], [20, 0, 30, 10]], [0, 0])]
    found = [detections([[0, 0, 10, 8], [0, 0, 10, 9]], [0.9, 0.8], [0, 0])]
    assert ca.boxes.mean_iou(found, there) == pytest.approx((80 + 0) / 2)


def test_a_crowds_overlap_is_the_share_of_the_detection() -> None:
    shares = crowd_overlaps(np.array([[0.0, 0, 10, 10], [90, 0, 110, 10]]), np.array([[0.0, 0, 100, 100]]))
    assert shares.tolist() == [[1], [0.5]]


def test_wrong_use_is_refused_with_its_reason() -> None:
    found, there = random_scene(0)
    with pytest.raises(UsageError, match="unknown definition of average precision 'voc2007'"):
        ca.boxes.average_precision(found, there, CLASSES, "voc2007")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="detections in 11 images, and objects in 12"):
        ca.boxes.average_precision(found[1:], there, CLASSES)
    with pytest.raises(UsageError, match="class 2 is unknown: there are 2, from 0"):
        ca.boxes.average_precision(found, there, 2)
    with pytest.raises(UsageError, match="threshold is 50"):
        ca.boxes.average_precision(found, there, CLASSES, threshold=50)
    with pytest.raises(UsageError, match=r"labels should have shape \(1,\)"):
        ca.boxes.detections([[0, 0, 1, 1]], [0.5], [])
    with pytest.raises(UsageError, match=r"ignored should be booleans of shape \(1,\)"):
        ca.boxes.truths([[0, 0, 1, 1]], [0], [1])


def test_the_draws_of_the_mean_iou_are_those_of_average_precision() -> None:
    """One image of two has its object found: both scores are the share of the draws that fall on it."""
    there = [truths([[0, 0, 10, 10]], [0])] * 2
    found = [detections([[0, 0, 10, 10]], [0.9], [0]), detections([], [], [])]
    overlaps = ca.boxes.object_overlaps(found, there)
    assert overlaps.mean() == 50
    draws = overlaps.bootstrap(200, seed=3)
    assert {*draws} == {0.0, 50.0, 100.0}
    np.testing.assert_allclose(ca.boxes.match_detections(found, there, 1).bootstrap(200, seed=3), draws)
    assert bootstrap.interval(draws) == (0, 100)
    assert np.isnan(bootstrap.interval(np.full(3, np.nan))).all()
