"""Visualizations as images and figures: heat maps over images, projections on grey, grids of small images."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from torch import Tensor

from convatlas.errors import printable
from convatlas.plotting import figure_png, fit_tile, plot_style
from convatlas.visualization.grad_cam import resize_map
from convatlas.visualization.top_activations import Activation

RgbImage = NDArray[np.uint8]  # (height, width, 3)
IMAGE_SIDE = 230  # pixels that an image is drawn at, about
HEAT_COLORMAP = "inferno"
TILE_SIDE = 72  # pixels of an image in a grid of activations, approximately
GRID_COLUMNS = 3  # activations in a row of a map's grid
FIGURE_COLUMNS = 3  # maps side by side
TITLE_CHARACTERS = 30  # in a line


class TitledImage(NamedTuple):
    image: RgbImage
    title: str


class Explanation(NamedTuple):
    """What `explain_image` shows of one image."""

    title: str
    image: TitledImage
    overlays: Sequence[TitledImage]  # one for each class
    patch: TitledImage  # of the image, where a map's strongest activation looks
    projection: TitledImage  # of this activation, the same pixels


def to_image(image: Tensor) -> RgbImage:
    """Convert an image (c, h, w), uint8, c 1 or 3."""
    return np.repeat(image.permute(1, 2, 0).cpu().numpy(), 3 // image.shape[0], axis=2)


def overlay(image: Tensor, cam: Tensor, side: int = 0) -> RgbImage:
    """Draw a Grad-CAM map (h', w') in colour over the image (c, h, w), uint8, in grey; the map's maximum is
    the brightest. Images smaller than `side` are enlarged by a whole factor, with a smooth map over them."""
    factor = max(1, side // max(image.shape[1:]))
    image = image.cpu().repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    heat = resize_map(cam[None], (image.shape[1], image.shape[2]))[0].float().cpu()
    heat = heat / heat.max().clamp_min(torch.finfo(heat.dtype).tiny)
    grey = image.float().mean(0).numpy()[..., None] / 255
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


def draw_explanation(explanation: Explanation) -> bytes:
    """Draw the image beside Grad-CAM for each class, with a colour bar, and the patch of an activation beside
    its projection, as a PNG."""
    images = [explanation.image, *explanation.overlays, explanation.patch, explanation.projection]
    num_overlays = len(explanation.overlays)
    with plot_style(title_size=9, parse_math=False):
        widths = [1.0] * (1 + num_overlays) + [0.06, 1.0, 1.0]
        figure = Figure(figsize=(2.3 * len(images) + 0.7, 3.25), layout="constrained")
        figure.suptitle(printable(explanation.title), fontsize=10)
        all_axes = list(figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0])
        bar_axes = all_axes.pop(1 + num_overlays)
        for axes, (image, title) in zip(all_axes, images, strict=True):
            enlarged = fit_tile(image, IMAGE_SIDE) if max(image.shape[:2]) < IMAGE_SIDE else image
            axes.imshow(enlarged, interpolation="antialiased")
            axes.set_title(textwrap.fill(printable(title), TITLE_CHARACTERS))
            axes.axis("off")
        colors = ScalarMappable(Normalize(0, 1), HEAT_COLORMAP)
        bar = figure.colorbar(colors, cax=bar_axes, ticks=[0, 0.5, 1])
        bar.set_label("Grad-CAM, share of its maximum", fontsize=8)
        bar_axes.set_box_aspect(16)
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
