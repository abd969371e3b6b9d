"""Two networks on the same masks: the difference of mean IU and what can be said of it."""

import numpy as np

from convatlas.evaluation.mask_significance import paired_mask_comparison
from convatlas.segmentation.metrics import confusion_matrix, mean_iou
from convatlas.segmentation.task import MaskPredictions


def predict(error: float, seed: int, indices: range) -> MaskPredictions:
    """Predictions of 3 classes on images of 400 pixels, of which the share `error` is drawn at random."""
    confusions = []
    for index in indices:
        targets = np.random.default_rng(index).integers(0, 3, 400)
        generator = np.random.default_rng([seed, index])
        wrong = generator.random(400) < error
        confusions.append(
            confusion_matrix(np.where(wrong, generator.integers(0, 3, 400), targets), targets, 3)
        )
    return MaskPredictions(np.stack(confusions), np.zeros(len(indices)), np.array(indices))


def test_a_better_network_is_better_beyond_its_interval_and_an_equal_one_is_not() -> None:
    worse, better = predict(0.3, 0, range(40)), predict(0.2, 1, range(40))
    pair = paired_mask_comparison(worse, better)
    expected = mean_iou(better.confusions.sum(0)) - mean_iou(worse.confusions.sum(0))
    assert pair["difference"] == float(expected) > 5
    assert 0 < pair["interval"][0] < pair["difference"] < pair["interval"][1]
    assert pair["second_better"] > 35
    equal = paired_mask_comparison(predict(0.3, 2, range(40)), worse)
    assert equal["interval"][0] < 0 < equal["interval"][1]


def test_images_are_matched_by_their_index() -> None:
    first, second = predict(0.3, 0, range(30)), predict(0.2, 1, range(10, 40))
    pair = paired_mask_comparison(first, second)
    assert (pair["n"], pair["unshared"]) == (20, 20)
    same = paired_mask_comparison(predict(0.3, 0, range(10, 30)), predict(0.2, 1, range(10, 30)))
    assert pair | {"unshared": 0} == same


def test_a_network_is_exactly_as_good_as_itself() -> None:
    predictions = predict(0.3, 0, range(5))
    pair = paired_mask_comparison(predictions, predictions)
    assert (pair["difference"], pair["interval"]) == (0, (0, 0))
    assert (pair["first_better"], pair["second_better"]) == (0, 0)
