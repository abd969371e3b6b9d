"""Clusters of images that are equal or look alike."""

from convatlas.data.curation.check import Duplicate
from convatlas.data.curation.duplicate_clusters import cluster_pairs


def pair(a: str, b: str, distance: float) -> Duplicate:
    splits = {"a": "train", "b": "train", "c": "test", "d": "val", "e": "val"}
    return Duplicate((a, b), (splits[a], splits[b]), ("bag", "bag"), distance, identical=distance == 0)


def test_pairs_that_share_an_image_are_one_cluster() -> None:
    first, second = cluster_pairs([pair("d", "e", 0.0), pair("a", "b", 0.02), pair("b", "c", 0.07)])
    assert (first.files, first.splits, first.identical) == (("d", "e"), ("val", "val"), True)
    assert (second.files, second.splits) == (("a", "b", "c"), ("train", "train", "test"))
    assert (second.distances, second.identical) == ((0.02, 0.07), False)


def test_two_clusters_become_one_by_a_pair_that_joins_them() -> None:
    (cluster,) = cluster_pairs([pair("a", "b", 0.01), pair("c", "d", 0.02), pair("b", "d", 0.03)])
    assert sorted(cluster.files) == ["a", "b", "c", "d"]
