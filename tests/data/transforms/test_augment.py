from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from convatlas.data.transforms.augment import (
    Augmentation,
    Elastic,
    Flip,
    Lighting,
    PadCrop,
    Photometric,
    SampleRng,
)

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, size=(64, 3, 6, 8), dtype=np.uint8))
INDICES = np.arange(64)


def test_a_crop_is_a_window_of_the_padded_image_at_the_drawn_place() -> None:
    draw = SampleRng(1, 2, INDICES, 0)
    cropped = PadCrop(2)(IMAGES, draw)
    down, right = draw.integers(5), draw.integers(5, 1)
    for n in range(64):
        padded = np.pad(IMAGES[n].numpy(), ((0, 0), (2, 2), (2, 2)))
        assert (cropped[n].numpy() == padded[:, down[n] : down[n] + 6, right[n] : right[n] + 8]).all()
    assert len(set(zip(down.tolist(), right.tolist(), strict=True))) > 15


def test_half_of_the_images_are_mirrored() -> None:
    flipped = Flip()(IMAGES, SampleRng(1, 2, INDICES, 0))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, IMAGES, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, flipped, IMAGES, strict=True))
    assert 20 <= sum(mirrored) <= 44


LIGHTING = Lighting().with_covariance(torch.eye(3, dtype=torch.float64) / 12)


EVERY = pytest.mark.parametrize(
    "augmentation", [PadCrop(3), Flip(), LIGHTING, Photometric(), Elastic(std=1.0)], ids=lambda a: type(a).__name__
)


@EVERY
@given(st.integers(0, 2**31), st.integers(0, 99), st.lists(st.integers(0, 63), min_size=1, max_size=8))
def test_what_happens_to_a_sample_hangs_on_seed_epoch_and_index_alone(
    augmentation: Augmentation, seed: int, epoch: int, picked: list[int]
) -> None:
    every = augmentation(IMAGES, SampleRng(seed, epoch, INDICES, 1))
    few = augmentation(IMAGES[picked], SampleRng(seed, epoch, np.array(picked), 1))
    assert torch.equal(few, every[picked])


@pytest.mark.gpu
@EVERY
def test_a_cuda_device_augments_as_a_cpu(augmentation: Augmentation, cuda: torch.device) -> None:
    draw = SampleRng(1, 2, INDICES, 0)
    torch.testing.assert_close(augmentation(IMAGES.to(cuda), draw).cpu(), augmentation(IMAGES, draw), rtol=0, atol=0.05)


COLOURS = torch.from_numpy(np.random.default_rng(1).integers(0, 256, size=(64, 3, 20, 24), dtype=np.uint8))


def test_lighting_adds_the_principal_components_times_their_variance_times_a_normal_number() -> None:
    pixels = COLOURS.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy() / 255
    pixels = pixels * [1.0, 0.5, 0.2]  # three different variances
    values, vectors = np.linalg.eigh(np.cov(pixels.T, bias=True))
    lighting = Lighting().with_covariance(torch.from_numpy(np.cov(pixels.T, bias=True)))
    draw = SampleRng(0, 0, np.arange(2000), 3)
    shift = lighting(torch.zeros(2000, 3, 1, 1), draw)[:, :, 0, 0].double().numpy() / 255
    along = shift @ vectors  # of one standard deviation 0.1 times the eigenvalue each, uncorrelated
    np.testing.assert_allclose(along.std(0), 0.1 * values, rtol=0.05)
    np.testing.assert_allclose(np.corrcoef(along.T), np.eye(3), atol=0.06)
    moved = lighting(COLOURS[:4], SampleRng(0, 0, np.arange(4), 3)) - COLOURS[:4]
    np.testing.assert_allclose(moved.std((2, 3)), 0, atol=1e-3)  # the same for every pixel of an image
    assert torch.equal(lighting(COLOURS[:, :1], draw), COLOURS[:, :1])


@pytest.mark.parametrize("order", list(permutations(("contrast", "brightness", "colour"))))
def test_photometric_distortion_is_pillows_enhancers_in_a_random_order(order: tuple[str, ...]) -> None:
    draw = SampleRng(5, 1, np.arange(64), 2)
    u, enhancers = draw.uniforms(4), (ImageEnhance.Contrast, ImageEnhance.Brightness, ImageEnhance.Color)
    names = ("contrast", "brightness", "colour")
    found = Photometric()(COLOURS, draw)
    mine = [n for n in range(64) if [names[i] for i in list(permutations(range(3)))[int(6 * u[n, 3])]] == list(order)]
    assert mine
    for n in mine:
        image = Image.fromarray(COLOURS[n].permute(1, 2, 0).numpy())
        for which in map(names.index, order):
            image = enhancers[which](image).enhance(0.5 + u[n, which])
        theirs = np.asarray(image, np.float32).transpose(2, 0, 1)
        assert np.abs(found[n].numpy() - theirs).max() < 5  # Pillow cuts down to whole levels after each
        assert np.abs(found[n].numpy() - theirs).mean() < 2


def test_elastic_displacements_are_normal_of_ten_pixels_at_three_by_three_places_and_smooth_between() -> None:
    field = Elastic().field((101, 141), SampleRng(0, 0, np.arange(500), 1)).numpy()
    corners = field[:, :, ::50, ::70].reshape(500, -1)
    np.testing.assert_allclose(corners.std(0), 10, rtol=0.15)
    assert abs(np.corrcoef(corners.T) - np.eye(18)).max() < 0.2
    assert np.abs(np.diff(field, n=2, axis=2)).max() < 0.2  # pixels of displacement, from row to row to row


def test_elastic_deformation_moves_masks_as_images_and_never_mixes_ids() -> None:
    masks = torch.zeros(8, 60, 80, dtype=torch.int64)
    masks[:, 20:40, 30:50] = 7
    draw, elastic = SampleRng(0, 0, np.arange(8), 1), Elastic()
    moved = elastic.masks(masks, draw)
    assert set(torch.unique(moved).tolist()) == {0, 7}
    assert not torch.equal(moved, masks)
    images = elastic((masks == 7)[:, None] * 255.0, draw)[:, 0]
    assert ((images > 127.5) == (moved == 7)).float().mean() > 0.99
    # against the definition: what was at p + field(p) is at p
    field = elastic.field((60, 80), draw).numpy()
    for n, y, x in ((0, 30, 40), (3, 25, 33), (5, 45, 60)):
        at = round(y + field[n, 1, y, x]), round(x + field[n, 0, y, x])
        if 0 <= at[0] < 60 and 0 <= at[1] < 80:
            assert moved[n, y, x] == masks[n, at[0], at[1]]


def test_what_lies_outside_is_the_mirror_image() -> None:
    images = torch.arange(40.0)[None, None, None].expand(1, 1, 40, 40)
    moved = Elastic(std=30.0)(images, SampleRng(2, 0, np.arange(1), 0))
    assert moved.min() >= 0
    assert moved.max() <= 39  # nothing from outside, such as zeros turned grey, was let in
    assert moved.std() > 5
