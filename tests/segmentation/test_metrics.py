"""Scores of masks against torchmetrics, scipy and the equations of arXiv:1411.4038, sec. 5."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.peers import import_or_skip
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import bootstrap
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from convatlas.models.unet import UNet
from convatlas.segmentation.metrics import (
    bootstrap_interval,
    class_iou,
    confusion_matrix,
    mean_iou,
    pixel_accuracy,
    segmentation_scores,
)


def random_masks(seed: int, classes: int, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], ...]:
    """Predictions that agree with about half of the targets; a tenth of the targets is ignored."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, shape, dtype=np.uint8)
    guesses = rng.integers(0, classes, shape, dtype=np.uint8)
    predictions = np.where(rng.random(shape) < 0.5, targets, guesses)
    targets[rng.random(shape) < 0.1] = 255
    return predictions, targets


@pytest.mark.parametrize(
    ("seed", "classes", "shape"), [(0, 2, (3, 40, 50)), (1, 6, (9, 1)), (2, 21, (80, 70))]
)
def test_the_confusion_matrix_is_scikit_learns(seed: int, classes: int, shape: tuple[int, ...]) -> None:
    predictions, targets = random_masks(seed, classes, shape)
    counted = targets != 255
    confusion = confusion_matrix(predictions, targets, classes)
    assert confusion.dtype == np.int64
    assert confusion.sum() == counted.sum()
    expected = sklearn_confusion_matrix(targets[counted], predictions[counted], labels=range(classes))
    assert np.array_equal(confusion, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_arrays_and_tensors_of_any_integer_type_give_the_same_counts(dtype: type) -> None:
    predictions, targets = random_masks(0, 5, (2, 30, 40))
    expected = confusion_matrix(predictions, targets, 5)
    assert np.array_equal(confusion_matrix(predictions.astype(dtype), targets.astype(dtype), 5), expected)
    as_tensors = torch.from_numpy(predictions), torch.from_numpy(targets.astype(np.int64))
    assert np.array_equal(confusion_matrix(*as_tensors, 5), expected)


def test_many_classes_do_not_overflow_small_integers() -> None:
    ids = np.full((3, 3), 199, np.uint8)
    assert confusion_matrix(ids, ids, 200)[199, 199] == 9


@pytest.mark.parametrize(
    ("predictions", "targets", "message"),
    [
        ([0, 3], [0, 1], "predictions hold the id 3: expected class ids from 0 to 2"),
        ([0, 1], [0, 254], "targets hold the id 254"),
        ([0, -1], [0, 1], "predictions hold the id -1"),
        ([0, 1], [0, -1], "targets hold the id -1"),
        ([0, 1, 2], [0, 1], r"shape \(3,\) but targets \(2,\)"),
        ([0.0, 1.0], [0, 1], "predictions are float64: expected integer class ids"),
        ([0, 1], [False, True], "targets are bool"),
    ],
)
def test_ids_that_are_no_classes_are_refused(
    predictions: list[Any], targets: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(predictions), np.array(targets), 3)


def test_ignored_targets_hide_their_predictions_whatever_they_are() -> None:
    targets = np.array([0, 255, 1])
    assert confusion_matrix(np.array([0, 77, 1]), targets, 2).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="the id 255"):
        confusion_matrix(np.array([0, 1, 1]), targets, 2, ignore=None)
    assert confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2, ignore=0).tolist() == [
        [0, 0],
        [0, 1],
    ]


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_scores_are_the_papers_equations(seed: int, classes: int) -> None:
    n = np.random.default_rng(seed).integers(1, 1000, (classes, classes))
    t = [float(sum(n[i][j] for j in range(classes))) for i in range(classes)]
    iou = [n[i][i] / (t[i] + sum(n[j][i] for j in range(classes)) - n[i][i]) for i in range(classes)]
    scores = segmentation_scores(n)
    assert scores == pytest.approx(
        {
            "pixel_accuracy": 100 * sum(n[i][i] for i in range(classes)) / sum(t),
            "mean_accuracy": 100 * sum(n[i][i] / t[i] for i in range(classes)) / classes,
            "mean_iou": 100 * sum(iou) / classes,
            "frequency_weighted_iou": 100 * sum(t[i] * iou[i] for i in range(classes)) / sum(t),
        },
        rel=1e-12,
    )
    assert class_iou(n) == pytest.approx(100 * np.array(iou), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_torchmetrics(seed: int) -> None:
    peer = import_or_skip("torchmetrics").functional.classification
    predictions, targets = random_masks(seed, 7, (4, 50, 60))
    confusion = confusion_matrix(predictions, targets, 7)
    masks = torch.from_numpy(predictions).long(), torch.from_numpy(targets).long()
    options: dict[str, Any] = {"num_classes": 7, "ignore_index": 255}

    def percent(metric: str, average: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = (
            getattr(peer, metric)(*masks, average=average, **options).double().numpy()
        )
        return 100 * values

    assert np.array_equal(confusion, peer.multiclass_confusion_matrix(*masks, **options).numpy())
    assert segmentation_scores(confusion) == pytest.approx(
        {
            "pixel_accuracy": percent("multiclass_accuracy", "micro"),
            "mean_accuracy": percent("multiclass_accuracy", "macro"),
            "mean_iou": percent("multiclass_jaccard_index", "macro"),
            "frequency_weighted_iou": percent("multiclass_jaccard_index", "weighted"),
        },
        rel=1e-6,
    )
    assert class_iou(confusion) == pytest.approx(percent("multiclass_jaccard_index", "none"), rel=1e-6)


def test_absent_classes_enter_a_mean_only_where_they_are_predicted() -> None:
    """Class 2 is no target but predicted, class 3 neither."""
    confusion = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1]), 4)
    np.testing.assert_allclose(class_iou(confusion), [100, 50, 0, np.nan])
    scores = segmentation_scores(confusion)
    assert scores["mean_accuracy"] == pytest.approx((100 + 50) / 2)
    assert scores["mean_iou"] == pytest.approx((100 + 50 + 0) / 3)
    assert scores["frequency_weighted_iou"] == pytest.approx((2 * 100 + 2 * 50) / 4)
    peer = import_or_skip("torchmetrics").functional.classification
    masks = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1])
    assert scores["mean_iou"] == pytest.approx(
        100 * peer.multiclass_jaccard_index(*masks, 4).item(), rel=1e-6
    )


def test_without_a_counted_pixel_every_score_is_nan() -> None:
    confusion = confusion_matrix(np.zeros(5, int), np.full(5, 255), 3)
    assert all(math.isnan(score) for score in segmentation_scores(confusion).values())


@pytest.mark.parametrize("score", [mean_iou, pixel_accuracy])
def test_the_interval_is_scipys_percentile_bootstrap(score: Any) -> None:
    rng = np.random.default_rng(1)
    confusions = rng.poisson([[90, 9, 1], [20, 60, 20], [5, 15, 30]], (40, 3, 3))
    confusions = confusions * rng.integers(1, 20, (40, 1, 1))  # images differ in size
    low, high = bootstrap_interval(confusions, score, resamples=4000)
    expected = bootstrap(
        (confusions,),
        lambda sample, axis: score(
            np.moveaxis(sample.sum(axis), (0, 1), (-2, -1))
        ),  # images are its last axis
        axis=0,
        n_resamples=4000,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = expected.high - expected.low
    assert width > 0.3
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.1 * width)
    assert low < score(confusions.sum(0)) < high


def test_the_interval_is_a_function_of_the_seed_and_exact_for_one_image() -> None:
    confusions = np.random.default_rng(0).integers(0, 50, (9, 4, 4))
    assert bootstrap_interval(confusions, seed=3) == bootstrap_interval(confusions, seed=3)
    assert bootstrap_interval(confusions, seed=3) != bootstrap_interval(confusions, seed=4)
    assert bootstrap_interval(confusions[:1]) == pytest.approx((mean_iou(confusions[0]),) * 2)
    with pytest.raises(ValueError, match="at least one image"):
        bootstrap_interval(confusions[:0])


def test_images_without_a_counted_pixel_do_not_spoil_the_interval() -> None:
    confusions = np.zeros((2, 2, 2), np.int64)
    assert np.isnan(bootstrap_interval(confusions)).all()
    confusions[0] = [[3, 1], [0, 4]]
    assert bootstrap_interval(confusions) == pytest.approx((mean_iou(confusions[0]),) * 2)


@pytest.mark.alone
def test_counting_takes_under_a_twentieth_of_a_thin_networks_forward() -> None:
    torch.manual_seed(0)
    model = UNet(num_classes=21, width=0.25).eval()
    images = torch.zeros(1, 1, 380, 380)
    predictions, targets = random_masks(0, 21, (196, 196))

    def seconds(run: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    with torch.inference_mode():
        forward = seconds(lambda: model(images))
    assert seconds(lambda: confusion_matrix(predictions, targets, 21)) < forward / 20
