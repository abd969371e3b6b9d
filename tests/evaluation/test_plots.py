"""The confusion matrix: legible for any number of classes."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from convatlas.evaluation.plots import largest_of_blocks, plot_confusion
from convatlas.plotting import figure_png


def confusion(num_classes: int) -> Figure:
    table = np.random.default_rng(0).poisson(0.1, (num_classes, num_classes))
    return plot_confusion(table + 9 * np.eye(num_classes, dtype=int), [f"a {i}" for i in range(num_classes)])


@pytest.mark.parametrize("num_classes", [2, 10, 40])
def test_classes_are_named_without_overlap_up_to_forty(num_classes: int) -> None:
    figure = confusion(num_classes)
    figure_png(figure)
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [f"a {i}" for i in range(num_classes)]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    assert all(above.y0 >= below.y1 for below, above in itertools.pairwise(boxes))


@pytest.mark.parametrize("num_classes", [100, 1000])
def test_more_classes_are_numbered_and_a_cell_is_at_least_a_pixel(num_classes: int) -> None:
    figure = confusion(num_classes)
    figure_png(figure)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "predicted class, by number from 0"
    (image,) = axes.get_images()
    assert axes.get_window_extent().height / len(image.get_array()) > 2  # type: ignore[arg-type]


def test_the_colours_have_a_scale_in_percent() -> None:
    assert confusion(10).axes[1].get_ylabel() == "% of the images of the true class"


def test_a_block_keeps_its_largest_share() -> None:
    shares = np.zeros((7, 7))
    shares[6, 1] = 60
    shares[2, 2] = 90
    cells, block = largest_of_blocks(shares, 4)
    assert block == 2
    expected = np.zeros((4, 4))
    expected[3, 0], expected[1, 1] = 60, 90
    assert np.array_equal(cells, expected)
