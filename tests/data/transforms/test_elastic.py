"""Elastic deformation against scipy's resampling and Keys' cubic convolution."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from convatlas.data.transforms.augment import ElasticTransform, SampleRng

RNG = SampleRng(seed=3, epoch=1, indices=np.arange(4), stream=2)
SIZES = [(48, 61), (20, 33), (7, 5)]  # the displacements of 10 pixels leave the smaller ones many times over


def sources(elastic: ElasticTransform, size: tuple[int, int]) -> NDArray[np.float64]:
    """(n, 2, h, w): the row and the column that each pixel's value comes from."""
    displacements = elastic.displacements(size, RNG).numpy()
    positions: NDArray[np.float64] = np.indices(size) + displacements[:, ::-1]  # x, y -> row, column
    return positions


@pytest.mark.parametrize("size", SIZES)
def test_images_are_resampled_as_scipy_does(size: tuple[int, int]) -> None:
    elastic = ElasticTransform()
    images = torch.randint(256, (4, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moved = elastic(images, RNG).numpy()
    for n, positions in enumerate(sources(elastic, size)):
        for c in range(3):
            # scipy's "mirror" does not repeat the border's pixels
            expected = map_coordinates(images[n, c].numpy().astype(float), positions, order=1, mode="mirror")
            np.testing.assert_allclose(moved[n, c], expected, rtol=0, atol=0.01)  # float32, of 0 to 255


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_resampled_as_scipy_does(size: tuple[int, int]) -> None:
    elastic = ElasticTransform()
    masks = torch.randint(256, (4, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moved = elastic.transform_masks(masks, RNG).numpy()
    for n, positions in enumerate(sources(elastic, size)):
        expected = map_coordinates(masks[n].numpy(), positions, order=0, mode="mirror")
        midway = (np.abs(positions % 1 - 0.5) < 1e-4).any(axis=0)  # rounded one way or the other
        assert midway.mean() < 0.01
        assert np.array_equal(moved[n][~midway], expected[~midway])


def cubic(distance: float) -> float:
    """Keys 1981, "Cubic convolution interpolation for digital image processing", with a = -0.75."""
    a, x = -0.75, abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


@pytest.mark.parametrize(("size", "grid"), [((23, 17), 3), ((9, 30), 5), ((1, 4), 3)])
def test_displacements_are_bicubic_between_the_points_of_the_grid(size: tuple[int, int], grid: int) -> None:
    elastic = ElasticTransform(std=10.0, grid=grid)
    displacements = elastic.displacements(size, RNG).numpy()
    points = 10.0 * RNG.normals(2 * grid**2).reshape(4, 2, grid, grid)

    def weights(side: int) -> NDArray[np.float64]:
        """(side, grid): of every point for every pixel; outside, the grid's border is repeated."""
        matrix = np.zeros((side, grid))
        for pixel in range(side):
            position = pixel * (grid - 1) / max(side - 1, 1)  # the first and last pixels are points
            for point in range(int(position) - 1, int(position) + 3):
                matrix[pixel, min(max(point, 0), grid - 1)] += cubic(position - point)
        return matrix

    expected = np.einsum("yi,xj,ncij->ncyx", weights(size[0]), weights(size[1]), points)
    np.testing.assert_allclose(displacements, expected, rtol=0, atol=1e-9)
