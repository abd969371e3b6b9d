"""Subsets of a split."""

import numpy as np
import pytest

from convatlas.data.dataset import ArrayImages, ImageSource, Split, Subset

IMAGES = ArrayImages(np.random.default_rng(0).integers(0, 256, size=(6, 3, 4, 5), dtype=np.uint8))


@pytest.mark.parametrize("images", [IMAGES, Subset(IMAGES, np.arange(6))], ids=["array", "image by image"])
def test_a_subset_has_the_samples_at_the_indices_in_their_order(images: ImageSource) -> None:
    split = Split(images, np.array([3, 1, 4, 1, 5, 9]), [bytes([i]) for i in range(6)])
    subset = split.subset(np.array([4, 0, 3]))
    assert len(subset) == len(subset.images) == 3
    assert subset.labels.tolist() == [5, 3, 1]
    assert list(subset.content_hashes) == [b"\4", b"\0", b"\3"]
    pixels = [subset.images.image(i).decode(3, (4, 5)) for i in range(3)]
    assert np.array_equal(pixels, IMAGES.array[[4, 0, 3]].transpose(0, 2, 3, 1))


def test_a_subset_of_images_in_memory_stays_in_memory() -> None:
    subset = Split(IMAGES, np.zeros(6, np.int64)).subset(np.array([1]))
    assert isinstance(subset.images, ArrayImages)
    assert subset.content_hashes == ()
