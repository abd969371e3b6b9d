"""Decoding image files: all common kinds, and hostile or damaged ones."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from convatlas.data.curation.image_warnings import image_warnings
from convatlas.data.images import decode
from convatlas.data.images.decode import EncodedImage, is_grayscale
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.images.resize import resize_center_crop
from convatlas.data.images.unreadable import UnreadableImage


def decode_file(
    path: Path, channels: int, size: tuple[int, int], value_range: ValueRange | None = None
) -> NDArray[np.uint8]:
    """(channels, *size), as in evaluation."""
    return np.asarray(resize_center_crop(decode.open_image(path), size, channels, value_range))


GRADIENT = np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)
COLOR = Image.fromarray(np.stack([GRADIENT, GRADIENT[::-1], GRADIENT[:, ::-1]], axis=2))


def test_an_image_of_the_right_size_is_untouched(tmp_path: Path) -> None:
    Image.fromarray(GRADIENT).save(tmp_path / "x.png")
    assert (decode_file(tmp_path / "x.png", 1, (40, 60))[0] == GRADIENT).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_decoded_to_the_requested_channels(tmp_path: Path, mode: str, channels: int) -> None:
    if mode == "I;16":
        image = Image.fromarray(GRADIENT.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(GRADIENT).convert("L" if mode in "IF" else "RGB").convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "F", "I") else "x.png")
    image.save(path)
    pixels = decode_file(path, channels, (20, 20), (0, 255) if mode in "IF" else None)
    assert pixels.shape == (channels, 20, 20)
    assert pixels.dtype == np.uint8
    assert pixels.max() - pixels.min() > 100  # still a gradient, neither clipped nor dark


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    Image.fromarray(GRADIENT.astype(np.uint16) * 257).save(tmp_path / "x.png")
    assert (decode_file(tmp_path / "x.png", 1, (40, 60))[0] == GRADIENT).all()


def test_transparency_is_composited_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(tmp_path / "x.png")
    assert (decode_file(tmp_path / "x.png", 3, (8, 8)) == 255).all()


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right
    Image.fromarray(GRADIENT).save(tmp_path / "x.png", exif=exif)
    assert (decode_file(tmp_path / "x.png", 1, (60, 40))[0] == np.rot90(GRADIENT, -1)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(40, 60), (1, 5), (5, 1), (1, 1)])
def test_all_exif_orientations_are_those_of_pillow(
    tmp_path: Path, shape: tuple[int, int], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GRADIENT[: shape[0], : shape[1]]).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert (decode_file(tmp_path / "x.png", 1, expected.shape)[0] == expected).all()


def test_the_first_frame_of_an_animation_is_used(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (decode_file(tmp_path / "x.gif", 1, (8, 8)) == 10).all()


def test_the_centre_is_cropped_when_the_aspect_ratio_differs(tmp_path: Path) -> None:
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = 255
    Image.fromarray(wide).save(tmp_path / "x.png")
    assert (decode_file(tmp_path / "x.png", 1, (20, 20)) == 255).all()


def test_the_header_says_whether_an_image_is_grayscale(tmp_path: Path) -> None:
    COLOR.save(tmp_path / "color.jpg")
    COLOR.convert("L").save(tmp_path / "gray.jpg")
    assert not is_grayscale(decode.open_image(tmp_path / "color.jpg"))
    assert is_grayscale(decode.open_image(tmp_path / "gray.jpg"))


def _png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "png")
    return buffer.getvalue()


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    COLOR.save(buffer, "jpeg")
    return buffer.getvalue()


INVALID_FILES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"not an image at all",
    "truncated": lambda: _jpeg()[:300],
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "psd": lambda: b"8BPS\x00\x01" + bytes(100),
    "bomb": lambda: _png(20_000, 20_000),
}


@pytest.mark.parametrize("kind", INVALID_FILES)
def test_an_invalid_file_is_named_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad\x1b[31m.jpg"
    path.write_bytes(INVALID_FILES[kind]())
    with pytest.raises(UnreadableImage) as error:
        decode_file(path, 3, (32, 32))
    assert "bad" in str(error.value)
    assert "\x1b" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"nothing\.png: No such file"):
        decode_file(tmp_path / "nothing.png", 3, (32, 32))
    with pytest.raises(UnreadableImage):
        decode_file(tmp_path, 3, (32, 32))


def test_a_header_is_read_without_the_pixels(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(_png(9_000, 9_000)[:-30])  # the end is missing
    image = decode.open_image(tmp_path / "x.png")
    assert (image.height, image.width) == (9_000, 9_000)
    with pytest.raises(UnreadableImage, match="truncated"):
        image.decode(3, (32, 32))


def test_a_webp_may_have_half_the_pixels_of_other_formats(tmp_path: Path) -> None:
    side = 8_000
    sizes = ((side - 1) | (side - 1) << 14).to_bytes(4, "little")
    header = b"RIFF" + (4 + 8 + 10).to_bytes(4, "little") + b"WEBPVP8L" + b"\x0a\0\0\0\x2f"
    (tmp_path / "x.webp").write_bytes(header + sizes + bytes(5))
    with pytest.raises(UnreadableImage, match="8000x8000 pixels, more than the limit of 50,000,000"):
        decode.open_image(tmp_path / "x.webp")


def test_a_large_jpeg_of_very_many_scans_is_refused_before_decoding(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000)).save(buffer, "jpeg", progressive=True)
    data = buffer.getvalue()
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "sound.jpg").write_bytes(data)
    (tmp_path / "hostile.jpg").write_bytes(data[:-2] + 2000 * last_scan + data[-2:])
    assert decode_file(tmp_path / "sound.jpg", 1, (8, 8)).shape == (1, 8, 8)
    with pytest.raises(UnreadableImage, match=r"2000x2000 pixels in 2,006 scans"):
        decode.open_image(tmp_path / "hostile.jpg")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "F", "CMYK", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_converting_in_bands_gives_the_pixels_of_one_conversion(
    tmp_path: Path, mode: str, channels: int
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (1500, 1700), np.uint8)  # more than two bands
    if mode in ("I;16", "F"):
        image = Image.fromarray(
            values.astype(np.uint16) * 257 if mode == "I;16" else values.astype(np.float32)
        )
        converted = Image.fromarray(values)
    else:
        image = Image.fromarray(np.stack([values, values[::-1], values[:, ::-1]], 2))
        image = image.convert(mode.removesuffix("A"))
        converted = image
        if mode.endswith("A"):
            image.putalpha(Image.fromarray(np.roll(values, 700)))
            white = Image.new("RGBA", image.size, "white")
            converted = Image.alpha_composite(white, image.convert("RGBA"))
    path = tmp_path / ("x.png" if mode in ("RGBA", "LA", "P", "1") else "x.tif")
    image.save(path)
    value_range = (0.0, 255.0) if mode == "F" else None
    expected = np.asarray(converted.convert("L" if channels == 1 else "RGB")).reshape(1500, 1700, channels)
    assert (decode.open_image(path).decode(channels, (1500, 1700), value_range) == expected).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_is_converted_as_pillow_converts_it(tmp_path: Path, mode: str) -> None:
    image = COLOR.convert(mode.removesuffix("A"))
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(GRADIENT))
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    image.save(path)
    if mode.endswith("A"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    expected = np.asarray(image.convert("RGB"))
    assert (decode_file(path, 3, (40, 60)).transpose(1, 2, 0) == expected).all()


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "x.png", transparency=0)
    assert decode_file(tmp_path / "x.png", 3, (1, 2)).reshape(3, 2).T.tolist() == [[255] * 3, [0, 0, 200]]


def test_of_colours_of_16_bits_the_upper_8_are_read_and_check_says_so(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + checksum

    header = (1).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])  # 16 bits a channel, RGB
    pixel = b"\0" + b"\x12\xff" + b"\x34\0" + b"\x56\x80"
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixel))
    image = EncodedImage(data + chunk(b"IEND", b""), "x.png")
    pixels = image.decode(3, (1, 1))
    assert pixels.ravel().tolist() == [0x12, 0x34, 0x56]
    assert "colours of 16 bits: only the upper 8 of each are read" in image_warnings(image, pixels, 3)


def test_a_photo_of_108_megapixels_is_decoded_at_reduced_scale() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.linear_gradient("L").resize((12_000, 9_000))
    buffer = io.BytesIO()
    photo.save(buffer, "jpeg", exif=exif)
    image = EncodedImage(buffer.getvalue(), "x.jpg")
    assert (image.height, image.width) == (12_000, 9_000)
    pixels = resize_center_crop(image, (64, 48), 1)[0]
    expected = Image.linear_gradient("L").resize((64, 48)).transpose(Image.Transpose.ROTATE_270)
    assert np.abs(np.asarray(pixels, int) - np.asarray(expected).reshape(64, 48)).max() <= 4
    assert image.decode(1, (12_000, 9_000)).shape == (6_000, 4_500, 1)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits for images of 40x60 = 2,400 pixels."""
    monkeypatch.setattr(decode, "MAX_PIXELS", 2_000)
    monkeypatch.setattr(decode, "MAX_REDUCIBLE_PIXELS", 3_000)
    monkeypatch.setattr(decode, "MAX_BASELINE_PIXELS", 8_000)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "gif"])
def test_of_other_large_formats_each_2x2_pixels_are_averaged(tmp_path: Path, kind: str) -> None:
    Image.fromarray(GRADIENT).save(tmp_path / f"x.{kind}")
    expected = GRADIENT.reshape(20, 2, 30, 2).mean((1, 3))
    pixels = decode.open_image(tmp_path / f"x.{kind}").decode(1, (40, 60))[:, :, 0]
    assert np.abs(pixels - expected).max() <= 0.5
    odd = GRADIENT[:39, :59]
    Image.fromarray(odd).save(tmp_path / f"odd.{kind}")
    assert decode.open_image(tmp_path / f"odd.{kind}").decode(1, (39, 59)).shape == (20, 30, 1)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "gif", "jpeg", "progressive"])
def test_an_image_beyond_its_formats_limit_is_named_with_its_size(tmp_path: Path, kind: str) -> None:
    sides = {"jpeg": 91, "progressive": 60}
    side = sides.get(kind, 56)
    options = {"progressive": True} if kind == "progressive" else {}
    Image.new("L", (side, side)).save(tmp_path / "x", "jpeg" if side > 56 else kind, **options)
    with pytest.raises(UnreadableImage, match=rf"x: {side}x{side} pixels, more than the limit of"):
        decode.open_image(tmp_path / "x")
    if kind == "jpeg":
        Image.new("L", (60, 60)).save(tmp_path / "x", "jpeg")  # more than other formats may have
        image = decode.open_image(tmp_path / "x")
        assert image.decode(1, (60, 60)).shape == (30, 30, 1)
        assert image_warnings(image, image.decode(1, (60, 60)), 1) == [
            "more than 100 megapixels: decoded at reduced scale"
        ]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2000), st.binary(min_size=1, max_size=20))
def test_damaged_bytes_give_pixels_or_an_error_with_the_files_name(
    tmp_path: Path, position: int, junk: bytes
) -> None:
    data = _jpeg()
    position %= len(data)
    path = tmp_path / "x.jpg"
    path.write_bytes(data[:position] + junk + data[position + len(junk) :])
    try:
        assert decode_file(path, 3, (16, 16)).shape == (3, 16, 16)
    except UnreadableImage as error:
        assert "x.jpg" in str(error)
