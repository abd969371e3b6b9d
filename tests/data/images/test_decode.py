"""Decoding image files: all common kinds, and hostile or damaged ones."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from convatlas.data.images import decode
from convatlas.data.images.decode import UnreadableImage, is_grayscale
from convatlas.data.images.resize import resize_center_crop


def decode_file(path: Path, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(channels, *size), as in evaluation."""
    return np.asarray(resize_center_crop(decode.open_image(path), size, channels))


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
    pixels = decode_file(path, channels, (20, 20))
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
    expected = np.asarray(converted.convert("L" if channels == 1 else "RGB")).reshape(1500, 1700, channels)
    assert (decode.open_image(path).decode(channels, (1500, 1700)) == expected).all()


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
