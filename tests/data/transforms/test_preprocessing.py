from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from convatlas.data.dataset import ArrayImages
from convatlas.data.transforms.normalize import ChannelStatistics, PixelMean, PixelRange
from convatlas.data.transforms.preprocessing import Preprocessing, fixed_size_preprocessing

IMAGES = np.random.default_rng(0).integers(0, 256, size=(50, 2, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize(
    ("source", "size", "way"),
    [
        ((28, 28), (32, 32), "pad"),
        ((32, 32), (32, 32), "none"),
        ((8, 8), (32, 32), "resize"),
        ((27, 32), (32, 32), "pad"),
        ((40, 40), (32, 32), "resize"),
    ],
)
def test_images_up_to_four_pixels_a_side_too_small_are_padded_others_resized(
    source: tuple[int, int], size: tuple[int, int], way: str
) -> None:
    preprocessing = fixed_size_preprocessing(1, source, size)
    assert preprocessing.fit == way
    assert preprocessing(torch.zeros(2, 1, *source, dtype=torch.uint8)).shape == (2, 1, *size)


@pytest.mark.parametrize(
    ("source", "size", "fit", "said"),
    [
        ((0, 8), (8, 8), "resize", "source should be from 1 to 8,192 pixels a side, not 0x8"),
        ((8, 8), (8, -1), "resize", "size should be from 1 to 8,192 pixels a side, not 8x-1"),
        ((8, 8), (1 << 40, 8), "resize", "not 1099511627776x8"),
        ((8, 8), (9, 8), "none", "8x8 pixels do not become 9x8 by 'none'"),
        ((8, 8), (7, 8), "pad", "by 'pad'"),
        ((8, 8), (9, 8), "crop", "by 'crop'"),
    ],
)
def test_a_geometry_that_no_image_could_go_through_is_refused(
    source: tuple[int, int], size: tuple[int, int], fit: Literal["none", "pad", "resize", "crop"], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Preprocessing(channels=1, source=source, size=size, fit=fit)


def test_padding_is_zero_and_even() -> None:
    padded = fixed_size_preprocessing(2, (28, 28), (32, 32))(torch.from_numpy(IMAGES)).numpy()
    assert (padded == np.pad(IMAGES, ((0, 0), (0, 0), (2, 2), (2, 2)))).all()


def test_resizing_is_antialiased_as_pillow_does_it() -> None:
    smooth = np.asarray(Image.fromarray(IMAGES[0, 0]).resize((112, 112), Image.Resampling.BICUBIC))[None, None].copy()
    ours = fixed_size_preprocessing(1, (112, 112), (32, 32))(torch.from_numpy(smooth))[0, 0].numpy()
    theirs = np.asarray(Image.fromarray(smooth[0, 0]).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_channel_statistics_make_mean_zero_and_deviation_one() -> None:
    geometry = fixed_size_preprocessing(2, (28, 28), (32, 32))
    images = geometry(torch.from_numpy(IMAGES))
    standard = ChannelStatistics().fit(ArrayImages(IMAGES), geometry)(images).double()
    np.testing.assert_allclose(standard.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std((0, 2, 3), correction=0), 1, atol=1e-5)


def test_pixel_mean_makes_every_pixels_mean_zero() -> None:
    geometry = fixed_size_preprocessing(2, (28, 28), (28, 28))
    standardiser = PixelMean().fit(ArrayImages(IMAGES), geometry)
    np.testing.assert_allclose(standardiser.mean, IMAGES.mean(axis=0) / 255, rtol=1e-5)
    np.testing.assert_allclose(standardiser(torch.from_numpy(IMAGES)).mean(0), 0, atol=1e-6)


def test_pixel_range_is_lenets() -> None:
    geometry = fixed_size_preprocessing(1, (28, 28), (28, 28))
    ends = PixelRange(low=-0.1, high=1.175).fit(ArrayImages(IMAGES[:, :1]), geometry)(
        torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
    )
    np.testing.assert_allclose(ends.flatten(), [-0.1, 1.175], rtol=1e-6)
