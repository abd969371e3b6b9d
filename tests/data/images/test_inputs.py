"""What callers of `predict` bring: the same pixels in every form, and one sentence for what is ambiguous."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convatlas.classifier import Classifier
from convatlas.data.images.decode import open_image
from convatlas.data.images.inputs import iterate_images, read_image
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.errors import UsageError, UserError

RGB = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
EXPECTED = r"expected RGB or grey pixels, uint8 from 0 to 255, of shape \(height, width, channels\)"


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "image",
    [
        RGB,
        torch.from_numpy(RGB),
        np.asfortranarray(RGB),
        RGB[::-1][::-1],
        Image.fromarray(RGB),
        png(Image.fromarray(RGB)),
        bytearray(png(Image.fromarray(RGB))),
        io.BytesIO(png(Image.fromarray(RGB))),
    ],
    ids=lambda image: type(image).__name__,
)
def test_every_form_gives_the_same_pixels(image: Any) -> None:
    read = read_image(image, "image 0")
    assert (read.height, read.width) == (9, 7)
    assert np.array_equal(read.decode(3, (0, 0)), RGB)


def test_a_grey_image_needs_no_channel_dimension() -> None:
    for grey in (RGB[:, :, 0], RGB[:, :, :1], torch.from_numpy(RGB[:, :, 0].copy())):
        assert np.array_equal(read_image(grey, "grey").decode(1, (0, 0)), RGB[:, :, :1])
        assert np.array_equal(read_image(grey, "grey").decode(3, (0, 0)), np.repeat(RGB[:, :, :1], 3, 2))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_a_pil_image_is_read_as_its_file_is(mode: str, tmp_path: Path) -> None:
    source = Image.fromarray(RGB[:, :, 0] if mode == "I;16" else RGB)
    image = source.convert("I").convert(mode) if mode == "I;16" else source.convert(mode)
    written = image.convert("RGB") if mode in ("CMYK", "YCbCr", "HSV") else image
    file = tmp_path / "image.png"
    written.save(file)
    expected = open_image(file).decode(3, (0, 0))
    assert np.array_equal(read_image(image, "image").decode(3, (0, 0)), expected)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_pil_image_without_a_scale_is_refused_as_its_file_is(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RGB[:, :, 0]).convert(mode)
    image.save(tmp_path / "image.tif")
    for read in (open_image(tmp_path / "image.tif"), read_image(image, "image")):
        with pytest.raises(UserError, match="for which the data set has no scale"):
            read.decode(3, (0, 0))


def test_the_exif_orientation_and_a_transparent_colour_count() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO(png(Image.fromarray(RGB), exif=exif))
    read = read_image(Image.open(file), "turned")
    assert (read.height, read.width) == (7, 9)
    assert np.array_equal(read.decode(3, (0, 0)), RGB[::-1].transpose(1, 0, 2))
    grey = Image.fromarray(RGB[:, :, 0])
    transparent = Image.open(io.BytesIO(png(grey, transparency=int(RGB[0, 0, 0]))))
    assert read_image(transparent, "transparent").decode(1, (0, 0))[0, 0] == 255  # on white


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        (RGB / 255, r"an array of float64 and shape \(9, 7, 3\): convert its values to 0 to 255"),
        (torch.from_numpy(RGB).float(), r"a tensor of float32 and shape \(9, 7, 3\): convert its values"),
        (RGB.astype(np.int64), "convert its values to 0 to 255"),
        (RGB.transpose(2, 0, 1), r"channels come last, as after image.transpose\(1, 2, 0\)"),
        (torch.from_numpy(RGB).permute(2, 0, 1), r"channels come last, as after image.permute\(1, 2, 0\)"),
        (RGB[None], "a batch is given as a list of images"),
        (RGB[0, 0], r"shape \(3,\): it is no image"),
        (RGB[:0], r"shape \(0, 7, 3\): it is no image"),
    ],
)
def test_ambiguous_pixels_are_refused_with_what_is_expected(image: Any, hint: str) -> None:
    with pytest.raises(UsageError, match=f"^image 3 is {hint}.*; {EXPECTED}|{hint}; {EXPECTED}"):
        read_image(image, "image 3")


def test_other_objects_are_refused_with_what_is_expected() -> None:
    with pytest.raises(
        UsageError, match="image 0 is a int: expected a path, the bytes of an image file, a PIL"
    ):
        read_image(5, "image 0")
    with pytest.raises(
        UsageError, match=r"\. is a folder: give its files, or use the command convatlas predict"
    ):
        iterate_images(".")
    for nothing in (5, None, {"a": RGB}):
        with pytest.raises(UsageError, match=r"cannot read images from a .*: expected a path"):
            iterate_images(nothing)
    with pytest.raises(UsageError, match="is an address: download it"):
        read_image("https://example.org/a.jpg", "a")
    with pytest.raises(UnreadableImage, match="image 0: not a readable"):
        read_image(b"no image", "image 0")


def test_predict_takes_one_image_or_many(trained: Classifier, digits: torch.Tensor, tmp_path: Path) -> None:
    array = digits[0, 0].numpy()
    file = tmp_path / "digit.png"
    Image.fromarray(array).save(file)
    (expected,) = trained.predict([file], top=2, engine="eager")
    for image in (
        str(file),
        file,
        file.read_bytes(),
        Image.open(file),
        array,
        array[:, :, None],
        digits[0, 0],
    ):
        assert trained.predict(image, top=2, engine="eager") == [expected]
    assert trained.predict([file, array, digits[0, 0]], top=2, engine="eager") == [expected] * 3
    assert trained.predict(iter([file]), top=2, engine="eager") == [expected]
    features = trained.features([file])["penultimate"]
    assert torch.equal(trained.features(array)["penultimate"], features)


def test_predict_names_the_image_that_it_cannot_take(trained: Classifier, digits: torch.Tensor) -> None:
    array = digits[0, 0].numpy()
    with pytest.raises(UsageError, match="image 1 is an array of float64"):
        trained.predict([array, array / 255.0], engine="eager")
    with pytest.raises(UserError, match=r"a\.jpg: No such file"):
        trained.predict("a.jpg", engine="eager")
    with pytest.raises(UsageError, match="top should be a whole number of classes, 1 or more, not 0"):
        trained.predict(array, top=0)
    with pytest.raises(UsageError, match=r"preprocessed images should be uint8 of shape \(n, 1, 32, 32\)"):
        trained.features(digits[:2, :, :8])
