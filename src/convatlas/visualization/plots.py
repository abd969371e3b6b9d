"""What was seen, as pictures: heat over an image, projections around grey, many small ones in a grid."""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from convatlas.errors import printable
from convatlas.visualization.grad_cam import resize_map
from convatlas.visualization.top_activations import Activation

Tile = NDArray[np.uint8]  # (height, width, 3)
STYLE: Any = {"font.size": 9, "axes.titlesize": 9, "figure.dpi": 110, "text.parse_math": False}
COLOURS = "inferno"
SIDE = 72  # pixels of a small picture, about
IN_A_ROW, BESIDE = 3, 3  # activations in a row of a map's grid; maps side by side


class TitledImage(NamedTuple):
    picture: Tile
    title: str


def to_image(image: Tensor) -> Tile:
    """An image (c, h, w), uint8, c 1 or 3."""
    return np.repeat(image.permute(1, 2, 0).cpu().numpy(), 3 // image.shape[0], axis=2)


def overlay(image: Tensor, found: Tensor) -> Tile:
    """An image (c, h, w), uint8, in grey, under its Grad-CAM (h', w') in colour, brightest where that is largest."""
    heat = resize_map(found[None], (image.shape[1], image.shape[2]))[0].float().cpu()
    heat = heat / heat.max().clamp_min(torch.finfo(heat.dtype).tiny)
    grey = image.cpu().float().mean(0).numpy()[..., None] / 255
    mixed: Tile = (255 * (0.5 * grey + 0.5 * matplotlib.colormaps[COLOURS](heat.numpy())[..., :3])).round().astype(np.uint8)
    return mixed


def signal_to_image(signal: Tensor) -> Tile:
    """A projection or a filter (c, h, w), c 1 or 3: grey is zero, the strongest value black or white."""
    scaled = signal / signal.abs().max().clamp_min(torch.finfo(signal.dtype).tiny)
    return to_image((127.5 + 127.5 * scaled).round().byte())


def grid(tiles: Sequence[Tile], columns: int, gap: int = 2) -> Tile:
    """Pictures of one size in rows of `columns`, white between them."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    whole = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        whole[top : top + height, left : left + width] = tile
    return whole


def png(picture: Tile) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def row(pictures: Sequence[TitledImage]) -> bytes:
    """A PNG of pictures of one image side by side."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * len(pictures), 2.95), layout="constrained")
        for axis, (picture, title) in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(textwrap.fill(printable(title), 26))
            axis.axis("off")
        return figure_png(figure)


def sheet(found: Mapping[int, Sequence[Activation]], path: str) -> bytes:
    """A PNG as the paper's Fig. 2: of each map the projections of its strongest activations, and beside them the patches they are of."""
    beside = min(BESIDE, len(found))
    rows = -(-len(found) // beside)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * beside, 2.05 * rows + 0.35), layout="constrained")
        figure.suptitle(f"{path}: the strongest activations of {_maps(len(found))}, projected down, and what they are of", fontsize=10)
        parts = np.atleast_1d(figure.subfigures(rows, beside, squeeze=False)).flat
        for part, (number, activations) in zip(parts, found.items(), strict=False):
            left, right = part.subplots(1, 2)
            for axis, tiles in (
                (left, [signal_to_image(a.reconstruction) for a in activations]),
                (right, [to_image(a.patch) for a in activations]),
            ):
                times = max(1, SIDE // max(tiles[0].shape[:2]))
                axis.imshow(grid([tile.repeat(times, 0).repeat(times, 1) for tile in tiles], IN_A_ROW), interpolation="antialiased")
                axis.axis("off")
            left.set_title(f"map {number}", loc="left")
        return figure_png(figure)


def _maps(count: int) -> str:
    return "a map" if count == 1 else f"{count} maps"


def figure_png(figure: Figure) -> bytes:
    """As a PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # characters that the font lacks are drawn as boxes
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
