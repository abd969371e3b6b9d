"""Objects against scikit-image, and the challenge's score against its definition."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import label

from convatlas.segmentation.instances import instance_scores, label_instances


def blocks(seed: int, ids: int, side: int = 24) -> NDArray[np.int64]:
    """A mask of rectangles with random ids, some of which overlap."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((side, side), np.int64)
    for _ in range(2 * ids):
        top, left = rng.integers(0, side - 1, 2)
        height, width = rng.integers(1, side // 2, 2)
        mask[top : top + height, left : left + width] = rng.integers(0, ids + 1)
    return mask


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([4, 8]))
def test_objects_are_scikit_images_components_of_one_class(
    seed: int, classes: int, connectivity: int
) -> None:
    mask = np.random.default_rng(seed).integers(0, classes + 1, (7, 9))
    instances = label_instances(mask, connectivity)
    neighbors = 1 if connectivity == 4 else 2
    expected = label(mask, background=0, connectivity=neighbors)  # type: ignore[no-untyped-call]
    pairs = np.unique(np.stack([instances.ravel(), expected.ravel()]), axis=1)
    # a renumbering: every id of one has one id of the other
    assert len(pairs.T) == len(np.unique(instances)) == len(np.unique(expected))
    assert np.array_equal(instances == 0, expected == 0)
    assert set(instances.ravel().tolist()) - {0} == set(range(1, instances.max() + 1))


def test_ignored_pixels_belong_to_no_object_and_part_one() -> None:
    mask = np.array([[1, 1, 255, 1, 2, 2]], np.uint8)
    assert label_instances(mask).tolist() == [[1, 1, 0, 2, 3, 3]]
    assert label_instances(mask, background=1).tolist() == [[0, 0, 0, 0, 1, 1]]
    assert label_instances(np.eye(2, dtype=int), connectivity=4).tolist() == [[1, 0], [0, 2]]
    assert label_instances(np.eye(2, dtype=int)).tolist() == [[1, 0], [0, 1]]


def scores_by_definition(predictions: NDArray[np.int64], references: NDArray[np.int64]) -> list[float]:
    scores = []
    for reference_id in sorted(set(references.ravel().tolist()) - {0}):
        r = references == reference_id
        score = 0.0
        for predicted_id in set(predictions.ravel().tolist()) - {0}:
            s = predictions == predicted_id
            if (r & s).sum() > 0.5 * r.sum():
                score = (r & s).sum() / (r | s).sum()
        scores.append(100 * score)
    return scores


@given(st.integers(0, 10_000), st.integers(0, 5), st.integers(0, 5))
def test_scores_are_the_challenges_definition(seed: int, predicted: int, referenced: int) -> None:
    references = 7 * blocks(seed, referenced)
    predictions = blocks(seed + 1, predicted)
    half = references.shape[0] // 2
    predictions[half:] = references[half:]  # else most objects score 0
    scores = instance_scores(predictions, references)
    assert scores == pytest.approx(scores_by_definition(predictions, references), rel=1e-12)


def test_half_of_an_object_is_not_enough() -> None:
    references = np.ones((2, 4), int)
    assert instance_scores(np.repeat([[1, 2]], 2, 0).repeat(2, 1), references).tolist() == [0]
    predictions = np.array([[1, 1, 1, 2], [1, 1, 2, 2]])
    assert instance_scores(predictions, references).tolist() == [100 * 5 / 8]


def test_many_touching_objects_of_16_bits_are_scored_in_a_moment() -> None:
    references = np.arange(1, 65_026, dtype=np.uint16).reshape(255, 255).repeat(4, 0).repeat(4, 1)
    predictions = np.roll(references, 1, axis=0)  # a quarter of every object is its neighbour's
    start = time.perf_counter()
    scores = instance_scores(predictions, references)
    assert time.perf_counter() - start < 5
    np.testing.assert_allclose(scores, 100 * 12 / 20)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), r"shape \(2, 2\) but references \(2, 3\)"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), "predictions should be integer ids"),
        (np.zeros((2, 2), int), np.full((2, 2), -1), "references hold the id -1"),
    ],
)
def test_masks_that_are_no_ids_are_refused(
    predictions: NDArray[np.int64], references: NDArray[np.int64], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        instance_scores(predictions, references)


def test_another_connectivity_is_refused() -> None:
    with pytest.raises(ValueError, match="connectivity should be 4 or 8, not 6"):
        label_instances(np.zeros((2, 2), int), connectivity=6)
