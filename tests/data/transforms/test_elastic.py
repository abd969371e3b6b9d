"""The displacements of an elastic deformation against Keys' cubic convolution."""

import numpy as np
import pytest
from numpy.typing import NDArray

from convatlas.data.transforms.elastic import ElasticTransform
from convatlas.data.transforms.sample_rng import SampleRng

RNG = SampleRng(seed=3, epoch=1, indices=np.arange(4), stream=2)


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
