"""The style of figures, and PNGs in memory."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from convatlas.plotting import figure_png, image_png, plot_style


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
