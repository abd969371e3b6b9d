"""The split by content: equal content is never separated, and every class is in every split if it can be."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.data.sources.split import stratified_holdout

# the content of each sample of each class: few values, so that many are equal
CLASSES = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=30), min_size=1, max_size=4)


def samples(classes: Sequence[Sequence[int]], shared: bool) -> tuple[np.ndarray, list[bytes]]:
    """Labels and content hashes; the contents of two classes are equal only if `shared`."""
    labels = np.repeat(np.arange(len(classes)), [len(contents) for contents in classes])
    hashes = [
        bytes([0 if shared else label, value, 7])
        for label, contents in enumerate(classes)
        for value in contents
    ]
    return labels, hashes


@given(CLASSES, st.booleans(), st.booleans(), st.sampled_from([[0.1, 0.1], [0.1], [0.3, 0.4]]), st.randoms())
def test_a_split_never_separates_equal_content_whatever_its_order_and_number(
    classes: list[list[int]], shared: bool, grouped: bool, fractions: list[float], random: object
) -> None:
    labels, hashes = samples(classes, shared)
    order = np.random.default_rng(random.randrange(1 << 30)).permutation(len(labels))  # type: ignore[attr-defined]
    groups = [f"group {i % 7}" for i in range(len(labels))] if grouped else None
    contents_by_order = []
    for indices in (np.arange(len(labels)), order):
        chosen_groups = None if groups is None else [groups[i] for i in indices]
        splits = stratified_holdout(labels[indices], [hashes[i] for i in indices], fractions, chosen_groups)
        assert sorted(np.concatenate(splits).tolist()) == list(range(len(labels)))
        contents = [{hashes[indices[i]] for i in split} for split in splits]
        assert sum(map(len, contents)) == len(set(hashes))
        contents_by_order.append(contents)
    if groups is None and not shared:
        assert contents_by_order[0] == contents_by_order[1]


@given(CLASSES, st.sampled_from([[0.1, 0.1], [0.1], [0.01, 0.3]]))
def test_every_split_has_every_class_that_has_as_many_contents_as_there_are_splits(
    classes: list[list[int]], fractions: list[float]
) -> None:
    labels, hashes = samples(classes, shared=False)
    splits = stratified_holdout(labels, hashes, fractions)
    for label, contents in enumerate(classes):
        number = len(set(contents))
        assert label in labels[splits[-1]]
        assert sum(label in labels[split] for split in splits) == min(number, len(splits))


@given(st.lists(st.integers(8, 60), min_size=1, max_size=4))
def test_without_equal_content_each_class_is_cut_at_the_rounded_fractions(sizes: list[int]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    hashes = [index.to_bytes(4, "big") for index in range(len(labels))]
    val, test, train = stratified_holdout(labels, hashes, [0.1, 0.1])
    for label, size in enumerate(sizes):
        members = np.flatnonzero(labels == label)  # in the order of their hashes
        first, second = np.floor(np.array([0.1, 0.2]) * size + 0.5).astype(int)
        assert np.array_equal(val[labels[val] == label], members[:first])
        assert np.array_equal(test[labels[test] == label], members[first:second])
        assert np.array_equal(train[labels[train] == label], members[second:])


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([5, 5], [[1, 1], [1, 1], [3, 3]]),
        ([3, 40], [[1, 4], [1, 4], [1, 32]]),
        ([2, 40], [[0, 4], [1, 4], [1, 32]]),
        ([1, 40], [[0, 4], [0, 4], [1, 32]]),
        ([2, 2], [[1, 0], [0, 1], [1, 1]]),
    ],
)
def test_tiny_classes_are_spread_as_far_as_they_go(counts: list[int], expected: list[list[int]]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    hashes = [index.to_bytes(4, "big") for index in range(len(labels))]
    splits = stratified_holdout(labels, hashes, [0.1, 0.1])
    found_counts = [np.bincount(labels[split], minlength=len(counts)).tolist() for split in splits]
    totals = [sum(split) for split in found_counts]
    if counts == [2, 2]:  # val gets one of either class, test one of the other
        assert totals == [1, 1, 2]
    else:
        assert found_counts == expected
