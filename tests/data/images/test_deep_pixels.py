"""Images of more than 8 bits: one scale for a data set, and no pixel depends on another."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from convatlas.data.images.decode import EncodedImage
from convatlas.data.images.deep_pixels import ValueRange, to_uint8, usual_range
from convatlas.data.images.unreadable import UnreadableImage


def encoded(values: NDArray[Any], kind: str = "tiff") -> EncodedImage:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return EncodedImage(buffer.getvalue(), f"x.{kind}")


def decoded(values: NDArray[Any], value_range: ValueRange | None, kind: str = "tiff") -> NDArray[np.uint8]:
    return encoded(values, kind).decode(1, values.shape[:2], value_range)[:, :, 0]


PIXELS = st.lists(st.integers(0, 65535), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(PIXELS, PIXELS, st.sampled_from(["png", "tiff"]))
def test_a_pixel_of_16_bits_depends_on_no_other_pixel(a: list[int], b: list[int], kind: str) -> None:
    together = decoded(np.array([a + b], np.uint16), None, kind)
    assert (together[:, : len(a)] == decoded(np.array([a], np.uint16), None, kind)).all()
    assert (together[:, len(a) :] == decoded(np.array([b], np.uint16), None, kind)).all()


@settings(max_examples=60, deadline=None)
@given(PIXELS)
def test_decoding_is_monotone(values: list[int]) -> None:
    ordered = np.sort(np.array([values], np.uint16))
    assert (np.diff(decoded(ordered, (0, 4095)).astype(int)) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(PIXELS, st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_a_change_of_units_changes_nothing_when_the_scale_changes_with_it(
    values: list[int], factor: float, offset: float
) -> None:
    array = np.array(values, np.float64)
    scaled = to_uint8(array * factor + offset, (offset, 65535 * factor + offset))
    assert np.abs(scaled.astype(int) - to_uint8(array, (0, 65535))).max() <= 1  # rounding at a half


@pytest.mark.parametrize("largest", [255, 256, 4095, 65535])
def test_a_16_bit_image_is_scaled_by_its_depth_whatever_its_largest_value(largest: int) -> None:
    values = np.array([[0, 255, largest]], np.uint16)
    assert decoded(values, None).tolist() == [np.rint(values[0] / 257).tolist()]


def test_twelve_bits_in_sixteen_fill_the_range_of_a_data_set_of_twelve() -> None:
    assert decoded(np.array([[0, 2048, 4095, 5000]], np.uint16), (0, 4095)).tolist() == [[0, 128, 255, 255]]


def test_floats_are_scaled_by_the_data_sets_range() -> None:
    values = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert decoded(values, (0, 1)).tolist() == [[0, 128, 255]]
    assert decoded(values - 7, (-7, -6)).tolist() == [[0, 128, 255]]


def test_signed_integers_keep_their_sign() -> None:
    values = np.array([[-1024, 0, 1024]], np.int32)
    assert decoded(values, (-1024, 1024)).tolist() == [[0, 128, 255]]


def test_unsigned_integers_of_32_bits_do_not_wrap_round() -> None:
    signed = encoded(np.array([[0, -1]], np.int32)).data
    sample_format = b"\x53\x01\x03\x00\x01\x00\x00\x00"  # tag 339, one short
    position = signed.index(sample_format) + len(sample_format)
    assert signed[position] == 2
    unsigned = signed[:position] + b"\x01" + signed[position + 1 :]
    image = EncodedImage(unsigned, "x.tif")
    assert image.deep_values().tolist() == [[0, 2**32 - 1]]
    assert image.decode(1, (1, 2), (0, 2**32 - 1)).ravel().tolist() == [0, 255]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_image_with_pixels_that_are_not_finite_is_named(bad: float) -> None:
    with pytest.raises(UnreadableImage, match=r"x\.tiff: .*2 pixels are NaN or infinite"):
        decoded(np.array([[0, bad, 1, bad]], np.float32), (0, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_a_usual_range_are_refused_where_the_data_set_has_no_scale(dtype: type) -> None:
    with pytest.raises(UnreadableImage, match=r"x\.tiff: .* no scale: convert it to 8 bits"):
        decoded(np.array([[0, 1]], dtype), None)


@pytest.mark.parametrize("value_range", [None, (0.0, 4095.0), (-3.0, 0.5)])
def test_an_image_of_8_bits_keeps_its_values_whatever_the_scale(value_range: ValueRange | None) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (decoded(values, value_range, "png") == values).all()


@pytest.mark.parametrize(
    ("low", "high", "is_float", "expected"),
    [
        (0, 255, False, (0, 255)),
        (0, 256, False, (0, 1023)),
        (17, 4000, False, (0, 4095)),
        (0, 30_000, False, (0, 65535)),
        (0, 70_000, False, (0, 2**17 - 1)),
        (-1024, 3071, False, (-1024, 3071)),
        (0.1, 0.9, True, (0, 1)),
        (0, 3.7, True, (0, 3.7)),
        (-2.5, -2.5, True, (-2.5, -1.5)),
    ],
)
def test_the_range_is_the_usual_one_that_holds_the_values(
    low: float, high: float, is_float: bool, expected: ValueRange
) -> None:
    assert usual_range(low, high, is_float) == expected
