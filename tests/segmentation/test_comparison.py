"""A predicted mask compared with its target: the same figures however the image is divided, and what is
ignored counts nowhere."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.mask import IGNORE, Mask
from convatlas.data.task import PredictedRows
from convatlas.segmentation.comparison import compare_with_target, object_scores
from convatlas.segmentation.predict import LogitWindow
from convatlas.segmentation.results import results_document
from convatlas.segmentation.task import mask_predictions


def random_image(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (3, 20, 30) and a target, a tenth of which is ignored."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(3, (20, 30), generator=generator, dtype=torch.uint8)
    target[torch.rand(20, 30, generator=generator) < 0.1] = IGNORE
    return torch.randn(3, 20, 30, generator=generator), target


def windows(logits: Tensor, rows: list[int], columns: list[int]) -> list[LogitWindow]:
    return [
        LogitWindow(slice(top, bottom), slice(left, right), logits[:, top:bottom, left:right])
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]


def test_windows_give_the_figures_of_the_whole_image() -> None:
    logits, target = random_image()
    compared = compare_with_target(windows(logits, [0, 7, 20], [0, 16, 30]), target)
    predicted = logits.argmax(0).numpy()
    assert (compared.mask == predicted).all()
    for row in range(3):
        for column in range(3):
            expected = ((target.numpy() == row) & (predicted == column)).sum()
            assert compared.confusion[row, column] == expected
    log_probabilities = logits.double().log_softmax(0).numpy()
    counted = np.argwhere(target.numpy() != IGNORE)
    loss = -sum(log_probabilities[int(target[y, x]), y, x] for y, x in counted)
    assert compared.loss == pytest.approx(loss, rel=1e-6)


def test_rows_give_back_confusions_losses_and_objects() -> None:
    compared = [compare_with_target(windows(*pair, [0, 30]), target) for pair, target in images()]
    rows = [np.append(part.row(), (150.0 * number, number)) for number, part in enumerate(compared)]
    predictions = mask_predictions(PredictedRows(np.stack(rows), np.arange(3), ()))
    assert (predictions.confusions == np.stack([part.confusion for part in compared])).all()
    assert predictions.losses.tolist() == [part.loss for part in compared]
    assert predictions.objects is not None
    assert predictions.objects.tolist() == [[0, 0], [150, 1], [300, 2]]
    document = results_document(predictions, ("a", "b", "c"))["instances"]
    assert (document["seg"], document["n"]) == (150, 3)
    assert document["seg_interval"] == pytest.approx((150, 150))
    without = mask_predictions(PredictedRows(np.stack([part.row() for part in compared]), np.arange(3), ()))
    assert without.objects is None
    assert results_document(without, ("a", "b", "c"))["instances"] is None


def images() -> list[tuple[tuple[Tensor, list[int]], Tensor]]:
    return [((logits, [0, 20]), target) for logits, target in map(random_image, range(3))]


def drawing(*rows: str) -> NDArray[np.uint8]:
    return np.array([[int(pixel) if pixel != "-" else IGNORE for pixel in row] for row in rows], np.uint8)


def test_the_score_of_objects_is_that_of_the_challenge() -> None:
    classes = drawing("011011", "011011", "000000")
    instances = drawing("011022", "011022", "000000").astype(np.uint16)
    # the first object is 4 of 6 predicted pixels; the second is predicted in two parts, none above half
    predicted = drawing("111001", "111000", "000010")
    assert object_scores(predicted, Mask(classes, instances)).tolist() == [pytest.approx(100 * 4 / 6), 0]
    assert object_scores(predicted, Mask(classes)).tolist() == []
    assert object_scores(predicted, Mask(classes, instances * 0)).tolist() == []


def test_pixels_that_are_ignored_count_in_no_object() -> None:
    classes = drawing("0-10", "0-10")
    instances = drawing("0110", "0110").astype(np.uint16)
    predicted = drawing("1110", "0010")
    # left of the ignored column one predicted pixel is left, connected through it
    assert object_scores(predicted, Mask(classes, instances)).tolist() == [pytest.approx(100 * 2 / 3)]
