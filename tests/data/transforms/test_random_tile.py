"""Tiles of images and masks: one geometry for both, whatever is cropped, mirrored or deformed."""

from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from convatlas.data.transforms.elastic import ElasticTransform
from convatlas.data.transforms.mirror import mirror
from convatlas.data.transforms.random_tile import RandomTile, TileGeometry, nearest
from convatlas.data.transforms.sample_rng import SampleRng

OUTSIDE = 255
sides = st.integers(1, 40)


def rng(seed: int) -> SampleRng:
    return SampleRng(seed, 0, np.array([3]), 1)


def draw(
    tile: RandomTile, size: tuple[int, int], shape: tuple[int, int], margin: int, seed: int
) -> TileGeometry:
    u = replace(rng(seed), stream=0).uniforms(tile.num_uniforms)[0]
    return tile.geometry(size, shape, margin, u, rng(seed))


def coordinates(height: int, width: int) -> tuple[torch.Tensor, NDArray[np.uint8]]:
    """An image and a mask that both hold the number of each pixel, below 255."""
    ids = (np.arange(height * width) % 251).astype(np.uint8).reshape(height, width)
    return torch.from_numpy(ids)[None], ids


@given(sides, sides, sides, sides, st.integers(0, 5), st.booleans(), st.integers(0, 10_000))
def test_image_and_mask_agree_wherever_the_mask_is_inside(
    height: int, width: int, rows: int, columns: int, margin: int, hflip: bool, seed: int
) -> None:
    tile = RandomTile(hflip=hflip)
    shape = rows + 2 * margin, columns + 2 * margin
    geometry = draw(tile, (height, width), shape, margin, seed)
    image, ids = coordinates(height, width)
    sampled = geometry.sample_image(image)[0].numpy()
    labels = geometry.center(margin).sample_ids(ids, OUTSIDE)
    inner = sampled[margin : margin + rows, margin : margin + columns]
    assert sampled.shape == shape
    assert labels.shape == (rows, columns)
    inside = labels != OUTSIDE
    assert (inner[inside] == labels[inside]).all()
    # a window that is larger than the image holds all of it, another one nothing else
    expected = min(rows, height) * min(columns, width)
    assert inside.sum() == expected


@given(st.integers(1, 9), st.integers(-60, 60))
def test_positions_outside_are_those_of_the_mirror_image(side: int, position: int) -> None:
    image = np.arange(side)
    padded = np.pad(image, 80, mode="reflect") if side > 1 else np.zeros(200, int)
    assert mirror(torch.tensor([position]), side).item() == padded[80 + position]


def test_every_place_of_the_window_occurs_and_half_of_the_tiles_are_mirrored() -> None:
    tile = RandomTile(hflip=True)
    geometries = [draw(tile, (12, 10), (10, 8), 1, seed) for seed in range(400)]
    starts = [int(geometry.rows.min()) + 1 for geometry in geometries]
    assert sorted(set(starts)) == [0, 1, 2, 3, 4]
    mirrored = sum(float(geometry.columns[0, 0]) > float(geometry.columns[0, -1]) for geometry in geometries)
    assert 150 < mirrored < 250


def test_elastic_displacements_are_normal_on_the_grid_and_smooth_between() -> None:
    displacements = ElasticTransform().displacements((101, 141), SampleRng(0, 0, np.arange(500), 1)).numpy()
    at_grid_points = displacements[:, :, ::50, ::70].reshape(500, -1)
    np.testing.assert_allclose(at_grid_points.std(0), 10, rtol=0.15)
    assert abs(np.corrcoef(at_grid_points.T) - np.eye(18)).max() < 0.2
    assert np.abs(np.diff(displacements, n=2, axis=2)).max() < 0.2  # pixels; second difference over the rows


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_deformed_image_is_scipys_and_its_mask_has_the_nearest_ids(seed: int) -> None:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (3, 50, 60), np.uint8)
    ids = generator.integers(0, 9, (50, 60)).astype(np.uint8)
    geometry = draw(RandomTile(elastic=ElasticTransform(std=8.0)), (50, 60), (44, 70), 4, seed)
    rows, columns = np.broadcast_arrays(geometry.rows, geometry.columns)
    expected = [
        ndimage.map_coordinates(channel.astype(np.float64), [rows, columns], order=1, mode="mirror")
        for channel in pixels
    ]
    sampled = geometry.sample_image(torch.from_numpy(pixels)).numpy()
    assert np.abs(sampled - np.stack(expected)).max() <= 0.51  # rounded to whole levels
    inner = (slice(4, -4), slice(4, -4))
    expected_ids = ndimage.map_coordinates(
        ids, [np.rint(rows[inner]), np.rint(columns[inner])], order=0, mode="constant", cval=OUTSIDE
    )
    assert (geometry.center(4).sample_ids(ids, OUTSIDE) == expected_ids).all()


def test_a_tile_depends_on_its_sample_alone() -> None:
    tile = RandomTile(hflip=True, elastic=ElasticTransform())
    first, again, other = (draw(tile, (50, 60), (40, 40), 0, seed) for seed in (5, 5, 6))
    assert (first.rows == again.rows).all()
    assert (first.columns == again.columns).all()
    assert not np.array_equal(first.rows, other.rows)


@given(sides, sides, sides, sides)
@example(26, 1, 23, 1)  # the centre of row 11 is at 13 exactly, where two rows meet
def test_resized_ids_are_those_at_the_pixels_centres(h: int, w: int, rows: int, columns: int) -> None:
    ids = np.random.default_rng(0).integers(0, 9, (h, w)).astype(np.uint8)
    resized = nearest(ids, (rows, columns))
    middle = Fraction(1, 2)
    for y in range(rows):
        for x in range(columns):
            y_original, x_original = (y + middle) * h / rows, (x + middle) * w / columns
            assert resized[y, x] == ids[floor(y_original), floor(x_original)]
