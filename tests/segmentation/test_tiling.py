"""Overlap-tile prediction: the image once, whatever the tile; mirrored borders; bounded memory."""

import weakref
from itertools import islice

import numpy as np
import pytest
import torch
from helpers.networks import randomize_weights
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from convatlas.errors import UsageError
from convatlas.models.unet import UNet
from convatlas.segmentation.tiling import Tiling, cut_tile, iterate_tiles


def unet_tiling(network: UNet, size: tuple[int, int]) -> Tiling:
    """The tiling of a U-Net whose tiles predict `size` (height, width), or the least that it can above."""
    height, width = (max(side, network.stride) for side in size)
    tile = network.image_size_for((height, width))
    return Tiling(tile, network.margin, valid=True, stride=network.stride)


class Identity:
    """The images as logits, without their margin where the tiling is valid; records the shapes of its
    inputs."""

    def __init__(self, tiling: Tiling):
        self.tiling = tiling
        self.shapes: set[tuple[int, ...]] = set()

    def __call__(self, images: Tensor) -> Tensor:
        self.shapes.add(tuple(images.shape))
        height, width = self.tiling.output
        margin = self.tiling.margin
        return (
            images[:, :, margin : margin + height, margin : margin + width] if self.tiling.valid else images
        )


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    margin, stride = draw(st.integers(0, 12)), draw(st.integers(1, 5))
    height, width = draw(st.tuples(*[st.integers(stride, 20)] * 2))
    return Tiling((height + 2 * margin, width + 2 * margin), margin, draw(st.booleans()), stride)


@given(tilings(), st.integers(1, 5), st.integers(1, 50), st.integers(1, 50))
def test_tiles_cover_each_pixel_once_with_the_logits_of_its_place(
    tiling: Tiling, batch: int, height: int, width: int
) -> None:
    image = torch.randint(256, (2, height, width), dtype=torch.uint8)
    logits_fn = Identity(tiling)
    times = torch.zeros(height, width, dtype=torch.int64)
    assembled = torch.zeros_like(image)
    for rows, columns, logits in iterate_tiles(logits_fn, image, tiling, batch):
        assert rows.start % tiling.stride == columns.start % tiling.stride == 0
        times[rows, columns] += 1
        assembled[:, rows, columns] = logits
    assert (times == 1).all()
    assert torch.equal(assembled, image)
    assert logits_fn.shapes == {(batch, 2, *tiling.tile)}


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 30))
def test_outside_the_image_is_numpys_reflection(height: int, width: int, margin: int) -> None:
    image = torch.arange(height * width).view(1, height, width)
    tiling = Tiling((height + 2 * margin, width + 2 * margin), margin, valid=True)
    expected = np.pad(image[0].numpy(), margin, mode="reflect")
    assert np.array_equal(cut_tile(image, 0, 0, tiling)[0].numpy(), expected)


@pytest.fixture(scope="module")
def network() -> UNet:
    torch.manual_seed(0)
    model = UNet(num_classes=3, width=1 / 16, dropout=0.0).double().eval()
    randomize_weights(model)
    with torch.no_grad():  # no class wins everywhere
        model.score.bias -= model(torch.rand(1, 1, 220, 220).double()).mean((0, 2, 3))
    return model


def logits_of(network: UNet, image: Tensor, tiling: Tiling, batch: int = 1) -> Tensor:
    logits = torch.full((3, *image.shape[1:]), torch.nan, dtype=torch.float64)
    with torch.inference_mode():
        tiles = iterate_tiles(lambda images: network(images.double() / 255), image, tiling, batch)
        for rows, columns, tile_logits in tiles:
            logits[:, rows, columns] = tile_logits
    return logits


def test_a_u_nets_prediction_does_not_depend_on_the_tiles_size(network: UNet) -> None:
    image = torch.randint(256, (1, 75, 61), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = logits_of(network, image, unet_tiling(network, (75, 61)))
    assert whole.std() > 0.1
    for size, batch in (((1, 1), 4), ((20, 52), 1), ((36, 75), 2)):
        logits = logits_of(network, image, unet_tiling(network, size), batch)
        torch.testing.assert_close(logits, whole, rtol=0, atol=1e-10)
    # the same tiles one pooling apart: their coarsest grids differ, and so do their logits
    shifted = Tiling((204, 204), margin=92, valid=True)
    assert (logits_of(network, image, shifted) - whole).abs().max() > 1e-3


def test_the_central_tile_is_the_network_on_the_image_itself(network: UNet) -> None:
    """Where a tile lies inside the image, no mirror image is involved."""
    image = torch.randint(256, (1, 240, 230), dtype=torch.uint8)
    logits = logits_of(network, image, unet_tiling(network, (64, 64)), batch=2)
    with torch.inference_mode():
        # tiles begin at multiples of 16, 92 pixels before what they predict
        direct = network(image[None, :, 4:208, 4:208].double() / 255)[0]
    torch.testing.assert_close(logits[:, 96:116, 96:116], direct, rtol=0, atol=1e-10)


def test_an_image_of_many_gigabytes_is_never_padded_or_copied() -> None:
    tiling = Tiling((204, 204), margin=92, valid=True, stride=16)
    image = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(3, 100_000, 100_000)  # one byte in memory
    references: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    logits_fn = Identity(tiling)

    def count_batches(images: Tensor) -> Tensor:
        references.append(weakref.ref(images))
        alive.append(sum(reference() is not None for reference in references))
        return logits_fn(images).clone()

    for _ in islice(iterate_tiles(count_batches, image, tiling, batch=2), 20):
        pass
    assert len(alive) == 10
    assert max(alive) == 1  # a batch is freed before the next is cut


@pytest.mark.parametrize(
    ("size", "tile"),
    [((1, 1), (204, 204)), ((20, 21), (204, 220)), ((388, 388), (572, 572)), ((389, 1), (588, 204))],
)
def test_a_u_nets_tile_is_the_smallest_that_predicts_a_size(
    size: tuple[int, int], tile: tuple[int, int]
) -> None:
    with torch.device("meta"):
        network = UNet(width=0.05)
        tiling = unet_tiling(network, size)
        assert tiling.tile == tile
        assert network(torch.empty(1, 1, *tile)).shape[2:] == tiling.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((188, 188, 92, 16), "188x188 with a margin of 92 and a stride of 16 covers nothing: .* 200x200"),
        ((10, 30, 5, 1), "take tiles of at least 11x11"),
    ],
)
def test_tiles_that_cover_nothing_are_refused(arguments: tuple[int, int, int, int], message: str) -> None:
    height, width, margin, stride = arguments
    with pytest.raises(UsageError, match=message):
        Tiling((height, width), margin, valid=True, stride=stride)


def test_logits_of_another_size_than_the_tiling_says_are_refused() -> None:
    image = torch.zeros(1, 9, 9, dtype=torch.uint8)
    with pytest.raises(UsageError, match="tiles of 8x9 the network gave logits of 8x9, not 4x5"):
        next(iterate_tiles(lambda images: images, image, Tiling((8, 9), 2, valid=True)))
    valid = Identity(Tiling((8, 9), 2, valid=True))
    with pytest.raises(UsageError, match="logits of 4x5, not 8x9"):
        next(iterate_tiles(valid, image, Tiling((8, 9), 2, valid=False)))


def test_images_without_pixels_are_refused() -> None:
    tiling = Tiling((4, 4), 0, valid=True)
    with pytest.raises(UsageError, match="0x5 has no pixels"):
        next(iterate_tiles(Identity(tiling), torch.zeros(1, 0, 5), tiling))
