"""Visualizations as images and figures: heat maps over images, projections on grey, grids of small images."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from torch import Tensor

from convatlas.errors import printable
from convatlas.plotting import figure_png, plot_style
from convatlas.visualization.grad_cam import resize_map
from convatlas.visualization.top_activations import Activation

RgbImage = NDArray[np.uint8]  # (height, width, 3)
HEAT_COLORMAP = "inferno"
TILE_SIDE = 72  # pixels of an image in a grid of activations, approximately
GRID_COLUMNS = 3  # activations in a row of a map's grid
FIGURE_COLUMNS = 3  # maps side by side
TITLE_CHARACTERS = 26  # in a line


class TitledImage(NamedTuple):
    image: RgbImage
    title: str


def to_image(image: Tensor) -> RgbImage:
    """Convert an image (c, h, w), uint8, c 1 or 3."""
    return np.repeat(image.permute(1, 2, 0).cpu().numpy(), 3 // image.shape[0], axis=2)


def overlay(image: Tensor, cam: Tensor) -> RgbImage:
    """Draw a Grad-CAM map (h', w') in colour over the image (c, h, w), uint8, in grey; the map's maximum is
    the brightest."""
    heat = resize_map(cam[None], (image.shape[1], image.shape[2]))[0].float().cpu()
    heat = heat / heat.max().clamp_min(torch.finfo(heat.dtype).tiny)
    grey = image.cpu().float().mean(0).numpy()[..., None] / 255
    colors = matplotlib.colormaps[HEAT_COLORMAP](heat.numpy())[..., :3]
    blended: RgbImage = (255 * (0.5 * grey + 0.5 * colors)).round().astype(np.uint8)
    return blended


def signal_to_image(signal: Tensor) -> RgbImage:
    """Convert a projection or a filter (c, h, w), c 1 or 3: zero is grey, the strongest value black or
    white."""
    scaled = signal / signal.abs().max().clamp_min(torch.finfo(signal.dtype).tiny)
    return to_image((127.5 + 127.5 * scaled).round().byte())


def make_grid(images: Sequence[RgbImage], num_columns: int, gap: int = 2) -> RgbImage:
    """Arrange images of one size in rows of `num_columns`, with a white gap, in pixels, between them."""
    height, width = images[0].shape[:2]
    num_rows = -(-len(images) // num_columns)
    size = (num_rows * (height + gap) - gap, num_columns * (width + gap) - gap, 3)
    grid = np.full(size, 255, np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, num_columns)
        top = row * (height + gap)
        left = column * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def draw_row(images: Sequence[TitledImage]) -> bytes:
    """Draw images side by side under their titles, as a PNG."""
    with plot_style(title_size=9, parse_math=False):
        figure = Figure(figsize=(2.3 * len(images), 2.95), layout="constrained")
        all_axes = figure.subplots(1, len(images), squeeze=False)[0]
        for axes, (image, title) in zip(all_axes, images, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_title(textwrap.fill(printable(title), TITLE_CHARACTERS))
            axes.axis("off")
        return figure_png(figure)


def draw_top_activations(activations_by_map: Mapping[int, Sequence[Activation]], path: str) -> bytes:
    """Draw the projections of each map's top activations beside their image patches, as a PNG (the paper's
    Fig. 2). `path` is the layer."""
    num_maps = len(activations_by_map)
    num_columns = min(FIGURE_COLUMNS, num_maps)
    num_rows = -(-num_maps // num_columns)
    maps = "a map" if num_maps == 1 else f"{num_maps} maps"
    title = f"{path}: the strongest activations of {maps}, projected down, and their image patches"
    with plot_style(title_size=9, parse_math=False):
        figure = Figure(figsize=(3.6 * num_columns, 2.05 * num_rows + 0.35), layout="constrained")
        figure.suptitle(title, fontsize=10)
        subfigures = np.atleast_1d(figure.subfigures(num_rows, num_columns, squeeze=False)).flat
        for subfigure, (map, activations) in zip(subfigures, activations_by_map.items(), strict=False):
            _draw_activations(subfigure, map, activations)
        return figure_png(figure)


def _draw_activations(subfigure: SubFigure, map: int, activations: Sequence[Activation]) -> None:
    left, right = subfigure.subplots(1, 2)
    projections = [signal_to_image(activation.reconstruction) for activation in activations]
    patches = [to_image(activation.patch) for activation in activations]
    for axes, images in ((left, projections), (right, patches)):
        scale = max(1, TILE_SIDE // max(images[0].shape[:2]))
        enlarged = [image.repeat(scale, 0).repeat(scale, 1) for image in images]
        axes.imshow(make_grid(enlarged, GRID_COLUMNS), interpolation="antialiased")
        axes.axis("off")
    left.set_title(f"map {map}", loc="left")
