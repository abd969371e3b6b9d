"""Preprocessing and normalisation: the geometry, loading in threads, and the fitted statistics."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from convatlas.data.dataset import ArrayImages, Subset
from convatlas.data.transforms.normalize import ChannelMeanStd, MeanImage, PixelRange
from convatlas.data.transforms.preprocessing import Preprocessing, fixed_size_preprocessing

IMAGES = np.random.default_rng(0).integers(0, 256, size=(50, 2, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize(
    ("resize_size", "input_size", "mode"),
    [
        ((28, 28), (32, 32), "pad"),
        ((32, 32), (32, 32), "none"),
        ((8, 8), (32, 32), "resize"),
        ((27, 32), (32, 32), "pad"),
        ((40, 40), (32, 32), "resize"),
    ],
)
def test_images_up_to_four_pixels_a_side_too_small_are_padded(
    resize_size: tuple[int, int], input_size: tuple[int, int], mode: str
) -> None:
    preprocessing = fixed_size_preprocessing(1, resize_size, input_size)
    assert preprocessing.mode == mode
    images = torch.zeros(2, 1, *resize_size, dtype=torch.uint8)
    assert preprocessing(images).shape == (2, 1, *input_size)


@pytest.mark.parametrize(
    ("resize_size", "input_size", "mode", "message"),
    [
        ((0, 8), (8, 8), "resize", "resize_size should be from 1 to 8,192 pixels a side, not 0x8"),
        ((8, 8), (8, -1), "resize", "input_size should be from 1 to 8,192 pixels a side, not 8x-1"),
        ((8, 8), (1 << 40, 8), "resize", "not 1099511627776x8"),
        ((8, 8), (9, 8), "none", "8x8 pixels do not become 9x8 by 'none'"),
        ((8, 8), (7, 8), "pad", "by 'pad'"),
        ((8, 8), (9, 8), "crop", "by 'crop'"),
    ],
)
def test_an_impossible_geometry_is_refused(
    resize_size: tuple[int, int],
    input_size: tuple[int, int],
    mode: Literal["none", "pad", "resize", "crop"],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(channels=1, resize_size=resize_size, input_size=input_size, mode=mode)


def test_padding_is_zero_and_even() -> None:
    padded = fixed_size_preprocessing(2, (28, 28), (32, 32))(torch.from_numpy(IMAGES)).numpy()
    assert (padded == np.pad(IMAGES, ((0, 0), (0, 0), (2, 2), (2, 2)))).all()


def test_resizing_is_antialiased_as_by_pillow() -> None:
    smooth = Image.fromarray(IMAGES[0, 0]).resize((112, 112), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(smooth))[None, None]
    resized = fixed_size_preprocessing(1, (112, 112), (32, 32))(pixels)[0, 0].numpy()
    expected = np.asarray(smooth.resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(resized.astype(int) - expected).max() <= 1


@pytest.fixture
def two_threads() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(num_threads)


def test_threads_load_a_batch_inside_inference_mode(two_threads: None) -> None:
    preprocessing = fixed_size_preprocessing(3, (28, 28), (32, 32))
    images = ArrayImages(IMAGES.repeat(2, axis=1)[:, :3])
    indices = np.array([7, 3, 11, 3, 0])
    with torch.inference_mode():
        # a Subset is loaded image by image, as files are
        batch, unreadable = preprocessing.load_batch(Subset(images, np.arange(len(images))), indices)
    assert unreadable == []
    assert torch.equal(batch, preprocessing(torch.from_numpy(images.array[indices])))


def test_channel_statistics_give_mean_zero_and_deviation_one() -> None:
    preprocessing = fixed_size_preprocessing(2, (28, 28), (32, 32))
    images = preprocessing(torch.from_numpy(IMAGES))
    normalized = ChannelMeanStd().fit(ArrayImages(IMAGES), preprocessing)(images).double()
    np.testing.assert_allclose(normalized.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std((0, 2, 3), correction=0), 1, atol=1e-5)


def test_subtracting_the_mean_image_gives_every_pixel_mean_zero() -> None:
    preprocessing = fixed_size_preprocessing(2, (28, 28), (28, 28))
    normalizer = MeanImage().fit(ArrayImages(IMAGES), preprocessing)
    np.testing.assert_allclose(normalizer.mean, IMAGES.mean(axis=0) / 255, rtol=1e-5)
    np.testing.assert_allclose(normalizer(torch.from_numpy(IMAGES)).mean(0), 0, atol=1e-6)


def test_a_pixel_range_maps_black_and_white_as_lenet_does() -> None:
    preprocessing = fixed_size_preprocessing(1, (28, 28), (28, 28))
    normalizer = PixelRange(low=-0.1, high=1.175).fit(ArrayImages(IMAGES[:, :1]), preprocessing)
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(normalizer(black_and_white).flatten(), [-0.1, 1.175], rtol=1e-6)
