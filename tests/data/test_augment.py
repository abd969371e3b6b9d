import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convatlas.data.augment import Augmentation, Draw, Flip, PadCrop

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, size=(64, 3, 6, 8), dtype=np.uint8))
INDICES = np.arange(64)


def test_a_crop_is_a_window_of_the_padded_image_at_the_drawn_place() -> None:
    draw = Draw(1, 2, INDICES, 0)
    cropped = PadCrop(2)(IMAGES, draw)
    down, right = draw.integers(5), draw.integers(5, 1)
    for n in range(64):
        padded = np.pad(IMAGES[n].numpy(), ((0, 0), (2, 2), (2, 2)))
        assert (cropped[n].numpy() == padded[:, down[n] : down[n] + 6, right[n] : right[n] + 8]).all()
    assert len(set(zip(down.tolist(), right.tolist(), strict=True))) > 15


def test_half_of_the_images_are_mirrored() -> None:
    flipped = Flip()(IMAGES, Draw(1, 2, INDICES, 0))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, IMAGES, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, flipped, IMAGES, strict=True))
    assert 20 <= sum(mirrored) <= 44


@pytest.mark.parametrize("augmentation", [PadCrop(3), Flip()])
@given(st.integers(0, 2**31), st.integers(0, 99), st.lists(st.integers(0, 63), min_size=1, max_size=8))
def test_what_happens_to_a_sample_hangs_on_seed_epoch_and_index_alone(
    augmentation: Augmentation, seed: int, epoch: int, picked: list[int]
) -> None:
    every = augmentation(IMAGES, Draw(seed, epoch, INDICES, 1))
    few = augmentation(IMAGES[picked], Draw(seed, epoch, np.array(picked), 1))
    assert torch.equal(few, every[picked])
