"""The style of every figure, and figures and images as PNG files in memory."""

import io
import warnings
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from convatlas.errors import printable

_FONT_WARNINGS = "Glyph .* missing|Matplotlib currently does not support"


def plot_style(title_size: int = 8, parse_math: bool = True) -> AbstractContextManager[None]:
    """Matplotlib's settings, as a context manager around everything that builds and saves a figure.

    `title_size` is in points. Without `parse_math` a dollar sign stands for itself, in every text; with it,
    names of files and classes go through `figure_text`.
    """
    style: Any = {
        "font.size": 9,
        "axes.titlesize": title_size,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.dpi": 110,
        "text.parse_math": parse_math,
    }
    return matplotlib.rc_context(style)


def figure_text(text: object) -> str:
    """Text from files and folders for a figure: printable, and without mathematical markup."""
    return printable(text).replace("$", r"\$")


def figure_png(figure: Figure) -> bytes:
    """Render a figure as a PNG. Characters that the font lacks are drawn as boxes, without a warning."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _FONT_WARNINGS)
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def image_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode an RGB image (height, width, 3) as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
