"""Augmentations: against their definitions, and the same for a sample in any batch."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from convatlas.data.transforms.augment import (
    Augmentation,
    Lighting,
    PhotometricDistort,
    RandomCrop,
    RandomHorizontalFlip,
)
from convatlas.data.transforms.sample_rng import SampleRng

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, size=(64, 3, 6, 8), dtype=np.uint8))
INDICES = np.arange(64)


def test_a_random_crop_is_a_window_of_the_padded_image() -> None:
    rng = SampleRng(1, 2, INDICES, 0)
    cropped = RandomCrop(2)(IMAGES, rng)
    tops = rng.integers(5)
    lefts = rng.integers(5, 1)
    for image, crop, top, left in zip(IMAGES, cropped, tops, lefts, strict=True):
        padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)))
        assert (crop.numpy() == padded[:, top : top + 6, left : left + 8]).all()
    assert len(set(zip(tops.tolist(), lefts.tolist(), strict=True))) > 15


def test_half_of_the_images_are_flipped() -> None:
    images = RandomHorizontalFlip()(IMAGES, SampleRng(1, 2, INDICES, 0))
    is_flipped = [
        torch.equal(image, original.flip(2)) for image, original in zip(images, IMAGES, strict=True)
    ]
    is_unchanged = [torch.equal(image, original) for image, original in zip(images, IMAGES, strict=True)]
    assert all(a or b for a, b in zip(is_flipped, is_unchanged, strict=True))
    assert 20 <= sum(is_flipped) <= 44


LIGHTING = Lighting().with_covariance(torch.eye(3, dtype=torch.float64) / 12)
AUGMENTATIONS = [
    RandomCrop(3),
    RandomHorizontalFlip(),
    LIGHTING,
    PhotometricDistort(),
]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=lambda augmentation: type(augmentation).__name__)
@given(st.integers(0, 2**31), st.integers(0, 99), st.lists(st.integers(0, 63), min_size=1, max_size=8))
def test_an_augmentation_depends_on_seed_epoch_and_sample_index_alone(
    augmentation: Augmentation, seed: int, epoch: int, indices: list[int]
) -> None:
    full_batch = augmentation(IMAGES, SampleRng(seed, epoch, INDICES, 1))
    small_batch = augmentation(IMAGES[indices], SampleRng(seed, epoch, np.array(indices), 1))
    assert torch.equal(small_batch, full_batch[indices])


@pytest.mark.gpu
@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=lambda augmentation: type(augmentation).__name__)
def test_a_cuda_device_augments_as_a_cpu(augmentation: Augmentation, cuda: torch.device) -> None:
    rng = SampleRng(1, 2, INDICES, 0)
    on_cuda = augmentation(IMAGES.to(cuda), rng).cpu()
    torch.testing.assert_close(on_cuda, augmentation(IMAGES, rng), rtol=0, atol=0.05)


COLOR_IMAGES = torch.from_numpy(
    np.random.default_rng(1).integers(0, 256, size=(64, 3, 20, 24), dtype=np.uint8)
)


def test_lighting_adds_random_multiples_of_the_principal_components() -> None:
    pixels = COLOR_IMAGES.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy() / 255
    pixels = pixels * [1.0, 0.5, 0.2]  # three different variances
    covariance = np.cov(pixels.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    lighting = Lighting().with_covariance(torch.from_numpy(covariance))
    rng = SampleRng(0, 0, np.arange(2000), 3)
    shift = lighting(torch.zeros(2000, 3, 1, 1), rng)[:, :, 0, 0].double().numpy() / 255
    coordinates = shift @ vectors  # standard deviation 0.1 times the eigenvalue each, uncorrelated
    np.testing.assert_allclose(coordinates.std(0), 0.1 * values, rtol=0.05)
    np.testing.assert_allclose(np.corrcoef(coordinates.T), np.eye(3), atol=0.06)
    difference = lighting(COLOR_IMAGES[:4], SampleRng(0, 0, np.arange(4), 3)) - COLOR_IMAGES[:4]
    np.testing.assert_allclose(difference.std((2, 3)), 0, atol=1e-3)  # the same for every pixel of an image
    assert torch.equal(lighting(COLOR_IMAGES[:, :1], rng), COLOR_IMAGES[:, :1])


@pytest.mark.parametrize("order", list(permutations(("contrast", "brightness", "colour"))))
def test_photometric_distortion_is_that_of_pillow_in_a_random_order(order: tuple[str, ...]) -> None:
    rng = SampleRng(5, 1, INDICES, 2)
    u = rng.uniforms(4)
    enhancers = (ImageEnhance.Contrast, ImageEnhance.Brightness, ImageEnhance.Color)
    operations = tuple(map(("contrast", "brightness", "colour").index, order))
    orders = list(permutations(range(3)))
    distorted = PhotometricDistort()(COLOR_IMAGES, rng)
    samples = [n for n in range(64) if orders[int(6 * u[n, 3])] == operations]
    assert samples
    for n in samples:
        image = Image.fromarray(COLOR_IMAGES[n].permute(1, 2, 0).numpy())
        for operation in operations:
            image = enhancers[operation](image).enhance(0.5 + u[n, operation])
        expected = np.asarray(image, np.float32).transpose(2, 0, 1)
        difference = np.abs(distorted[n].numpy() - expected)
        assert difference.max() < 5  # Pillow truncates to whole levels after each operation
        assert difference.mean() < 2
