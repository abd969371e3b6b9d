"""The style of figures, and PNGs in memory."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from convatlas.plotting import (
    Tile,
    TileRow,
    draw_tiles,
    figure_png,
    fit_tile,
    image_png,
    needs_log_scale,
    plot_style,
    stack_pngs,
)


@pytest.mark.parametrize("title", ["猫 \x1b]0;", "שלום"])
def test_a_title_in_any_script_is_drawn_without_a_warning(title: str) -> None:
    figure = Figure(figsize=(2, 1))
    figure.suptitle(title)
    assert Image.open(io.BytesIO(figure_png(figure))).format == "PNG"


def test_dollar_signs_are_text_where_math_is_not_parsed() -> None:
    pngs = []
    for parse_math in (True, False):
        with plot_style(parse_math=parse_math):
            figure = Figure(figsize=(2, 1))
            figure.suptitle("$x^2$")
            pngs.append(figure_png(figure))
    assert pngs[0] != pngs[1]


def test_an_image_is_encoded_without_loss() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image_png(pixels)))), pixels)


def test_small_images_are_enlarged_by_whole_factors_and_large_ones_shrunk() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 20, 1), dtype=np.uint8)
    assert np.array_equal(fit_tile(pixels, 112), pixels.repeat(4, 0).repeat(4, 1).repeat(3, 2))
    assert fit_tile(pixels[..., 0], 112).shape == (112, 80, 3)
    assert fit_tile(np.zeros((500, 300, 3), np.uint8), 100).shape == (100, 60, 3)


@pytest.mark.parametrize(("shapes", "cell"), [([(28, 28), (28, 28)], 112), ([(64, 32), (40, 64)], 128)])
def test_cells_have_one_size_and_images_keep_their_pixels(shapes: list[tuple[int, int]], cell: int) -> None:
    images = [np.full((*shape, 3), 30 + 60 * i, np.uint8) for i, shape in enumerate(shapes)]
    rows = [TileRow([Tile(image) for image in images], "label"), TileRow([Tile(images[0])], "2")]
    with plot_style():
        picture = np.asarray(Image.open(io.BytesIO(figure_png(draw_tiles(rows)))).convert("RGB"))
    for i, image in enumerate(images):
        factor = cell // max(image.shape[:2])
        ys, xs = np.nonzero((picture == 30 + 60 * i).all(2))
        drawn = {(int(y), int(x)) for y, x in zip(ys, xs, strict=True)}
        expected = image.shape[0] * image.shape[1] * factor**2 * (2 if i == 0 else 1)
        assert len(drawn) >= expected
    gray = (picture == 30).all(2)  # both rows' first images stand below each other
    columns = np.flatnonzero(gray.sum(0) >= 2 * images[0].shape[0])
    assert len(columns) == images[0].shape[1] * (cell // max(images[0].shape[:2]))


def test_a_scale_is_logarithmic_only_where_a_spike_would_flatten_the_rest() -> None:
    assert needs_log_scale([2.3, 1.9, 2800.0, 1.7, 1.6])
    assert not needs_log_scale([2.3, 1.9, 1.7, 0.02])
    assert not needs_log_scale([0.0, 1.0, 2800.0, 1.0])  # zero has no logarithm
    assert not needs_log_scale([1.0])


def test_pictures_are_stacked_without_changing_a_pixel() -> None:
    a, b = np.full((2, 3, 3), 10, np.uint8), np.full((4, 5, 3), 20, np.uint8)
    stacked = np.asarray(Image.open(io.BytesIO(stack_pngs([image_png(a), image_png(b)]))))
    assert stacked.shape == (6, 5, 3)
    assert np.array_equal(stacked[:2, :3], a)
    assert np.array_equal(stacked[2:], b)
