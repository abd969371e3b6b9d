"""Cropping and resizing, compared with Pillow, torch and decoding at full scale."""

import io

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from convatlas.data.images.decode import DecodedImage, EncodedImage, Pixels
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.images.resize import Box, crop_resize, resize, resize_center_crop
from convatlas.data.transforms.random_crop import CenterSquareRandomCrop, Crop, RandomResizedCrop, ScaleJitter

PHOTO = Image.fromarray(skimage.data.coffee())  # type: ignore[no-untyped-call]  # 600 x 400


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(96, 112), (500, 700), (1, 1)])
def test_resizing_is_bit_identical_to_torchs_antialiased_interpolation(size: tuple[int, int]) -> None:
    photo = np.asarray(PHOTO)
    for pixels in (photo, photo[30:200, 50:300], photo[:, :, :1]):
        batch = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        expected = torch.nn.functional.interpolate(batch, size, mode="bilinear", antialias=True)[0]
        assert torch.equal(resize(pixels, size), expected)


class FullScaleImage(EncodedImage):
    """An image that is never decoded at reduced scale."""

    def decode(
        self, channels: int, min_size: tuple[int, int], value_range: ValueRange | None = None
    ) -> Pixels:
        return super().decode(channels, (self.height, self.width))


@pytest.mark.parametrize("box", [Box(0, 0, 400, 600), Box(10, 20, 300, 280), Box(200, 100, 50, 60)])
def test_a_box_is_cropped_and_resized_as_by_pillow(box: Box) -> None:
    resized = crop_resize(DecodedImage(np.asarray(PHOTO)), box, (96, 112), 3).permute(1, 2, 0).numpy()
    crop = PHOTO.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    expected = np.asarray(crop.resize((112, 96), Image.Resampling.BILINEAR))
    assert np.abs(resized.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(32, 32), (56, 64), (96, 96)])
def test_decoding_at_reduced_scale_gives_almost_the_same_image(size: tuple[int, int]) -> None:
    data = jpeg(PHOTO)
    box = Box(16, 32, 320, 320 * size[1] // size[0] // 8 * 8)  # whole pixels at every scale
    images = EncodedImage(data, "x.jpg"), FullScaleImage(data, "x.jpg")
    cropped = [crop_resize(image, box, size, 3).int() for image in images]
    center_cropped = [resize_center_crop(image, size, 3).int() for image in images]
    for reduced, full in (cropped, center_cropped):
        assert not torch.equal(reduced, full)  # decoded at different scales
        assert (reduced - full).abs().float().mean() < 1
        assert abs(reduced.float().std() / full.float().std() - 1) < 0.01  # neither sharper nor softer


def test_reduced_scale_keeps_twice_the_pixels_of_the_output() -> None:
    min_sizes = []

    class RecordingImage(DecodedImage):
        def decode(
            self, channels: int, min_size: tuple[int, int] = (0, 0), value_range: ValueRange | None = None
        ) -> Pixels:
            min_sizes.append(min_size)
            return super().decode(channels, min_size)

    crop_resize(RecordingImage(np.asarray(PHOTO)), Box(0, 0, 200, 300), (40, 50), 3)
    resize_center_crop(RecordingImage(np.asarray(PHOTO)), (100, 100), 3)
    assert min_sizes == [(160, 200), (200, 300)]


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied_as_by_pillow(orientation: int, image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    PHOTO.resize((60, 40)).save(buffer, image_format, exif=exif)
    data = buffer.getvalue()
    image = EncodedImage(data, "x.jpg")
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (image.width, image.height) == expected.size
    assert (image.decode(3, (image.height, image.width)) == np.asarray(expected)).all()


CROPS = [RandomResizedCrop(), ScaleJitter(), ScaleJitter(resize_range=(256, 512)), CenterSquareRandomCrop()]


@pytest.mark.parametrize("crop", CROPS, ids=str)
@given(
    st.integers(8, 3000),
    st.integers(8, 3000),
    st.integers(0, 2**32),
    st.sampled_from([(224, 224), (32, 48), (299, 299)]),
)
def test_a_crop_lies_inside_the_image(
    crop: Crop, height: int, width: int, seed: int, size: tuple[int, int]
) -> None:
    image = DecodedImage(np.zeros((height, width, 1), np.uint8))
    box = crop.sample_box(image, size, np.random.default_rng(seed).random(crop.num_uniforms))
    assert box.height >= 1
    assert box.width >= 1
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width


def sample_boxes(crop: Crop, height: int, width: int, n: int = 4000) -> NDArray[np.float64]:
    """Boxes (n, 4): top, left, height, width."""
    image = DecodedImage(np.zeros((height, width, 1), np.uint8))
    uniforms = np.random.default_rng(0).random((n, crop.num_uniforms))
    return np.array([crop.sample_box(image, (224, 224), u) for u in uniforms], float)


def test_random_resized_crops_have_the_papers_areas_and_aspect_ratios() -> None:
    # up to an area of 0.7 every box fits
    top, left, h, w = sample_boxes(RandomResizedCrop(area=(0.08, 0.7)), 1000, 1000).T
    area = h * w / 1e6
    aspect = w / h
    quantiles = [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(np.quantile(area, quantiles), [0.08, 0.235, 0.39, 0.545, 0.7], atol=0.02)
    log_aspects = [np.log(3 / 4), 0, np.log(4 / 3)]
    np.testing.assert_allclose(np.quantile(np.log(aspect), [0, 0.5, 1]), log_aspects, atol=0.02)
    np.testing.assert_allclose([np.mean(top / (1000 - h)), np.mean(left / (1000 - w))], 0.5, atol=0.02)


def test_an_image_too_long_for_any_box_gives_its_largest_central_one() -> None:
    boxes = sample_boxes(RandomResizedCrop(area=(0.9, 1.0)), 100, 1000, 20)
    assert {tuple(box) for box in boxes} == {(0, 433, 100, 133)}


def test_scale_jitter_is_a_crop_of_the_resized_image() -> None:
    _, _, h, w = sample_boxes(ScaleJitter(), 500, 800).T
    assert (h == w).all()
    assert (h.min(), h.max()) == (round(224 * 500 / 480), round(224 * 500 / 256))
    # at one size: 224 of 256 x 384, in pixels of an image twice as large
    top, left, h, w = sample_boxes(ScaleJitter(resize_range=(256, 256)), 512, 768).T
    assert set(h) == {448}
    assert (top.min(), top.max(), left.min(), left.max()) == (0, 64, 0, 320)


def test_alexnets_crops_lie_in_the_central_square() -> None:
    top, left, h, w = sample_boxes(CenterSquareRandomCrop(), 512, 1024).T
    assert set(h) == set(w) == {448}
    assert (top.min(), top.max(), left.min(), left.max()) == (0, 64, 256, 320)
