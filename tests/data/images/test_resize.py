"""Parts of pictures at a size, against Pillow and against decoding in full."""

import io

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convatlas.data.images.decode import DecodedImage, EncodedImage, Pixels
from convatlas.data.images.resize import Box, crop_resize, resize, resize_center_crop
from convatlas.data.transforms.random_crop import CentralPatch, Crop, RandomResizedCrop, ScaleJitter

PHOTO = Image.fromarray(skimage.data.coffee())  # type: ignore[no-untyped-call]  # 600 x 400


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(96, 112), (500, 700), (1, 1)])
def test_a_resized_picture_has_the_bits_of_torchs_antialiased_interpolation(size: tuple[int, int]) -> None:
    pixels = np.asarray(PHOTO)
    for part in (pixels, pixels[30:200, 50:300], pixels[:, :, :1]):
        whole = torch.from_numpy(part.copy()).permute(2, 0, 1)[None]
        theirs = torch.nn.functional.interpolate(whole, size, mode="bilinear", antialias=True)[0]
        assert torch.equal(resize(part, size), theirs)


class InFull(EncodedImage):
    def decode(self, channels: int, min_size: tuple[int, int]) -> Pixels:
        return super().decode(channels, (self.height, self.width))


@pytest.mark.parametrize("box", [Box(0, 0, 400, 600), Box(10, 20, 300, 280), Box(200, 100, 50, 60)])
def test_a_box_is_cut_and_resized_as_pillow_does_it(box: Box) -> None:
    ours = crop_resize(DecodedImage(np.asarray(PHOTO)), box, (96, 112), 3).permute(1, 2, 0).numpy()
    part = PHOTO.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    theirs = np.asarray(part.resize((112, 96), Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("size", [(32, 32), (56, 64), (96, 96)])
def test_decoding_at_reduced_scale_shows_what_decoding_in_full_shows(size: tuple[int, int]) -> None:
    data = jpeg(PHOTO)
    box = Box(16, 32, 320, 320 * size[1] // size[0] // 8 * 8)  # whole pixels at every scale
    pictures = EncodedImage(data, "x.jpg"), InFull(data, "x.jpg")
    for reduced, full in ([crop_resize(p, box, size, 3).int() for p in pictures], [resize_center_crop(p, size, 3).int() for p in pictures]):
        assert not torch.equal(reduced, full)  # it was decoded at another scale
        assert (reduced - full).abs().float().mean() < 1
        assert abs(reduced.float().std() / full.float().std() - 1) < 0.01  # neither sharper nor softer


def test_reduced_scale_keeps_twice_the_pixels_that_are_wanted() -> None:
    asked = []

    class Asked(DecodedImage):
        def decode(self, channels: int, min_size: tuple[int, int] = (0, 0)) -> Pixels:
            asked.append(min_size)
            return super().decode(channels, min_size)

    crop_resize(Asked(np.asarray(PHOTO)), Box(0, 0, 200, 300), (40, 50), 3)
    resize_center_crop(Asked(np.asarray(PHOTO)), (100, 100), 3)
    assert asked == [(160, 200), (200, 300)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_as_pillow_turns_it(orientation: int, kind: str) -> None:
    from PIL import ImageOps

    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    PHOTO.resize((60, 40)).save(buffer, kind, exif=exif)
    data = buffer.getvalue()
    picture, theirs = EncodedImage(data, "x.jpg"), ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (picture.width, picture.height) == theirs.size
    assert (picture.decode(3, (picture.height, picture.width)) == np.asarray(theirs)).all()


CROPS = [RandomResizedCrop(), ScaleJitter(), ScaleJitter(shorter=(256, 512)), CentralPatch()]


@pytest.mark.parametrize("crop", CROPS, ids=str)
@given(st.integers(8, 3000), st.integers(8, 3000), st.integers(0, 2**32), st.sampled_from([(224, 224), (32, 48), (299, 299)]))
def test_a_crop_lies_inside_the_picture(crop: Crop, height: int, width: int, seed: int, size: tuple[int, int]) -> None:
    picture = DecodedImage(np.zeros((height, width, 1), np.uint8))
    top, left, h, w = crop.box(picture, size, np.random.default_rng(seed).random(crop.uniforms))
    assert h >= 1
    assert w >= 1
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w


def boxes(crop: Crop, height: int, width: int, n: int = 4000) -> np.ndarray:
    picture, rng = DecodedImage(np.zeros((height, width, 1), np.uint8)), np.random.default_rng(0)
    return np.array([crop.box(picture, (224, 224), u) for u in rng.random((n, crop.uniforms))], float)


def test_random_resized_crops_have_the_papers_areas_and_aspects_at_places_all_over() -> None:
    top, left, h, w = boxes(RandomResizedCrop(area=(0.08, 0.7)), 1000, 1000).T  # up to 0.7 every box fits
    area, aspect = h * w / 1e6, w / h
    np.testing.assert_allclose(np.quantile(area, [0, 0.25, 0.5, 0.75, 1]), [0.08, 0.235, 0.39, 0.545, 0.7], atol=0.02)
    np.testing.assert_allclose(np.quantile(np.log(aspect), [0, 0.5, 1]), [np.log(3 / 4), 0, np.log(4 / 3)], atol=0.02)
    np.testing.assert_allclose([np.mean(top / (1000 - h)), np.mean(left / (1000 - w))], 0.5, atol=0.02)


def test_a_picture_too_long_for_any_box_gives_its_largest_central_one() -> None:
    assert {tuple(box) for box in boxes(RandomResizedCrop(area=(0.9, 1.0)), 100, 1000, 20)} == {(0, 433, 100, 133)}


def test_scale_jitter_is_a_crop_of_the_resized_picture() -> None:
    _, _, h, w = boxes(ScaleJitter(), 500, 800).T
    assert (h == w).all()
    assert (h.min(), h.max()) == (round(224 * 500 / 480), round(224 * 500 / 256))
    top, left, h, w = boxes(ScaleJitter(shorter=(256, 256)), 512, 768).T  # at a fixed size: 224 of 256 x 384, in pixels twice as small
    assert set(h) == {448}
    assert (top.min(), top.max(), left.min(), left.max()) == (0, 64, 0, 320)


def test_alexnets_patches_lie_in_the_central_square() -> None:
    top, left, h, w = boxes(CentralPatch(), 512, 1024).T
    assert set(h) == set(w) == {448}
    assert (top.min(), top.max(), left.min(), left.max()) == (0, 64, 256, 320)
