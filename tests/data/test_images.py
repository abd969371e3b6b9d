"""Image files of every kind that people have, and of kinds that nobody should."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from convatlas.data import images
from convatlas.data.cutting import cover
from convatlas.data.images import UnreadableImage, is_grey


def decode(path: Path, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(channels, *size), as evaluation sees it."""
    return np.asarray(cover(images.read(path), size, channels))


GRADIENT = np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)
COLOUR = Image.fromarray(np.stack([GRADIENT, GRADIENT[::-1], GRADIENT[:, ::-1]], axis=2))


def test_an_image_of_the_right_size_is_untouched(tmp_path: Path) -> None:
    Image.fromarray(GRADIENT).save(tmp_path / "x.png")
    assert (decode(tmp_path / "x.png", 1, (40, 60))[0] == GRADIENT).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_channels_asked_for(tmp_path: Path, mode: str, channels: int) -> None:
    grey = Image.fromarray(GRADIENT)
    image = (
        Image.fromarray(GRADIENT.astype(np.uint16) * 257) if mode == "I;16" else grey.convert("L" if mode in "IF" else "RGB").convert(mode)
    )
    path = tmp_path / ("x.tif" if mode in ("CMYK", "F", "I") else "x.png")
    image.save(path)
    pixels = decode(path, channels, (20, 20))
    assert pixels.shape == (channels, 20, 20)
    assert pixels.dtype == np.uint8
    assert pixels.max() - pixels.min() > 100  # still a gradient, neither clipped nor dark


def test_sixteen_bits_become_eight_by_scale(tmp_path: Path) -> None:
    Image.fromarray(GRADIENT.astype(np.uint16) * 257).save(tmp_path / "x.png")
    assert (decode(tmp_path / "x.png", 1, (40, 60))[0] == GRADIENT).all()


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(tmp_path / "x.png")
    assert (decode(tmp_path / "x.png", 3, (8, 8)) == 255).all()


def test_exif_turns_the_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right
    Image.fromarray(GRADIENT).save(tmp_path / "x.png", exif=exif)
    assert (decode(tmp_path / "x.png", 1, (60, 40))[0] == np.rot90(GRADIENT, -1)).all()


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (decode(tmp_path / "x.gif", 1, (8, 8)) == 10).all()


def test_the_centre_is_kept_when_the_shape_differs(tmp_path: Path) -> None:
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = 255
    Image.fromarray(wide).save(tmp_path / "x.png")
    assert (decode(tmp_path / "x.png", 1, (20, 20)) == 255).all()


def test_grey_is_told_from_colour_by_the_header(tmp_path: Path) -> None:
    COLOUR.save(tmp_path / "c.jpg")
    COLOUR.convert("L").save(tmp_path / "g.jpg")
    assert (is_grey(images.read(tmp_path / "c.jpg")), is_grey(images.read(tmp_path / "g.jpg"))) == (False, True)


def _png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "png")
    return buffer.getvalue()


BAD: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"not an image at all",
    "truncated": lambda: _jpeg()[:300],
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "psd": lambda: b"8BPS\x00\x01" + bytes(100),
    "bomb": lambda: _png(20_000, 20_000),
}


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    COLOUR.save(buffer, "jpeg")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_image_is_named_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad\x1b[31m.jpg"
    path.write_bytes(BAD[kind]())
    with pytest.raises(UnreadableImage) as error:
        decode(path, 3, (32, 32))
    assert "bad" in str(error.value)
    assert "\x1b" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"nothing\.png: No such file"):
        decode(tmp_path / "nothing.png", 3, (32, 32))
    with pytest.raises(UnreadableImage):
        decode(tmp_path, 3, (32, 32))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2000), st.binary(min_size=1, max_size=20))
def test_damaged_bytes_give_pixels_or_a_named_error_and_nothing_else(tmp_path: Path, at: int, junk: bytes) -> None:
    data = _jpeg()
    path = tmp_path / "x.jpg"
    path.write_bytes(data[: at % len(data)] + junk + data[at % len(data) + len(junk) :])
    try:
        assert decode(path, 3, (16, 16)).shape == (3, 16, 16)
    except UnreadableImage as error:
        assert "x.jpg" in str(error)
