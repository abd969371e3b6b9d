"""What a network sees of a picture, window by window, and that nothing else matters: not its neighbours, their order, or who asks."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import skimage.data
import torch
import torch.nn.functional as F
from helpers.ensemble_members import SIZES, member
from torch import Tensor

from convatlas.data.dataset import ArrayImages, Split
from convatlas.data.images.decode import DecodedImage, ImageLike, Pixels, UnreadableImage
from convatlas.data.images.resize import Box
from convatlas.data.loading.multi_crop_batches import MultiCropBatches
from convatlas.data.sources.files import FileImages
from convatlas.data.transforms.multi_crop import FullImage, InceptionCrops, MultiCrop, TenCrop
from convatlas.data.transforms.preprocessing import center_crop_preprocessing, fixed_size_preprocessing
from convatlas.errors import UserError
from convatlas.evaluation.ensemble import average_logits
from convatlas.evaluation.predict import Predictions, predict_split
from convatlas.evaluation.protocols import PROTOCOLS

COFFEE = skimage.data.coffee()  # type: ignore[no-untyped-call]  # 400 x 600
GEOMETRY = center_crop_preprocessing(3, (32, 32), 8 / 7)
VIEWS = {name: protocol.views for name, protocol in PROTOCOLS.items() if protocol.views is not None}


class Pictures:
    """Photographs of several sizes; those in `broken` cannot be read."""

    def __init__(self, places: list[int], broken: tuple[int, ...] = ()):
        self.places, self.broken, self.decoded = places, broken, Counter[int]()

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        return f"{self.places[index]}.png"

    def image(self, index: int) -> ImageLike:
        place = self.places[index]
        if place in self.broken:
            raise UnreadableImage(self.name(index), "torn")
        height, width = SIZES[place % len(SIZES)]
        top, left = 53 * place % (400 - height), 71 * place % (600 - width)
        return Counted(COFFEE[top : top + height, left : left + width], place, self.decoded)


class Counted(DecodedImage):
    def __init__(self, array: Pixels, place: int, decoded: Counter[int]):
        super().__init__(array)
        self.place, self.decoded = place, decoded

    def decode(self, channels: int, min_size: tuple[int, int] = (0, 0)) -> Pixels:
        self.decoded[self.place] += 1
        return super().decode(channels, min_size)


def split(places: list[int], broken: tuple[int, ...] = ()) -> Split:
    return Split(Pictures(places, broken), np.array(places, np.int64) % 6)


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """By torch's own function, from (3, h, w)."""
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


@pytest.mark.parametrize(("height", "width"), [(300, 460), (380, 290)])
def test_the_144_crops_of_a_photograph_are_what_the_paper_says_pixel_by_pixel(height: int, width: int) -> None:
    photo = torch.from_numpy(COFFEE[:height, :width].copy()).permute(2, 0, 1)
    expected = []
    for scale in (256, 288, 320, 352):  # "4 scales where the shorter dimension is 256, 288, 320 and 352"
        size = (scale, width * scale // height) if height < width else (height * scale // width, scale)
        image = resized(photo, size)
        for third in range(3):  # "take the left, center and right square of these resized images (top, center and bottom squares)"
            y, x = (round((side - scale) * third / 2) for side in size)
            square = image[:, y : y + scale, x : x + scale]
            room = scale - 224  # "the 4 corners and the center 224x224 crop as well as the square resized to 224x224"
            for dy, dx in ((0, 0), (0, room), (room, 0), (room, room), (room // 2, room // 2)):
                expected.append(square[:, dy : dy + 224, dx : dx + 224])
            expected.append(resized(square, (224, 224)))
    expected += [image.flip(2) for image in expected]  # "and their mirrored versions"
    found = MultiCropBatches(split([0]), center_crop_preprocessing(3, (224, 224)), InceptionCrops(), 8).views_of(
        DecodedImage(COFFEE[:height, :width])
    )
    assert Counter(one.numpy().tobytes() for one in expected) == Counter(one.contiguous().numpy().tobytes() for one in found)
    assert len(found) == len({one.contiguous().numpy().tobytes() for one in found}) == 144


def test_without_mirror_images_half_of_the_windows_are_left() -> None:
    for name, whole in (("10", 10), ("12", 12), ("144", 144), ("dense", 2), ("multiscale", 10)):
        assert MultiCropBatches(split([0]), GEOMETRY, VIEWS[name], 8).views_per_image == whole
        assert MultiCropBatches(split([0]), GEOMETRY, VIEWS[name], 8, hflip_safe=False).views_per_image == whole // 2


@pytest.mark.parametrize("name", VIEWS)
def test_every_picture_is_decoded_once(name: str) -> None:
    seen = split([3, 1, 4, 0])
    source = MultiCropBatches(seen, GEOMETRY, VIEWS[name], 8)
    for step in range(source.steps):
        assert not isinstance(source[step], UserError)
    assert isinstance(seen.images, Pictures)
    assert seen.images.decoded == {3: 1, 1: 1, 4: 1, 0: 1}


@pytest.mark.parametrize(
    ("views", "batch", "rows", "pictures"), [(TenCrop(), 250, 250, 25), (TenCrop(), 7, 5, 1), (VIEWS["144"], 64, 48, 1)]
)
def test_stacks_have_one_shape_up_to_the_last(views: MultiCrop, batch: int, rows: int, pictures: int) -> None:
    source = MultiCropBatches(split([*range(30)][: pictures + 2]), GEOMETRY, views, batch)
    looks = [source[step] for step in range(source.steps)]
    assert source.images_per_step == pictures
    for one in looks:
        assert not isinstance(one, UserError)
        assert {stack.shape for stack in one.stacks} == {(rows, 3, 32, 32)}
        assert sum(map(len, one.stacks)) == pictures * source.views_per_image


def test_a_set_that_is_padded_is_seen_with_its_border_and_one_that_is_enlarged_from_its_own_pixels() -> None:
    digits = np.random.default_rng(0).integers(1, 256, (1, 1, 28, 28), dtype=np.uint8)
    padded = MultiCropBatches(
        Split(ArrayImages(digits), np.zeros(1, np.int64)),
        fixed_size_preprocessing(1, (28, 28), (32, 32)),
        FullImage(scales=(224,), mirrored=False),
        8,
    )
    assert torch.equal(padded.views_of(DecodedImage(digits[0].transpose(1, 2, 0)))[0], F.pad(torch.from_numpy(digits[0]), (2, 2, 2, 2)))
    enlarged = MultiCropBatches(
        Split(ArrayImages(digits), np.zeros(1, np.int64)),
        fixed_size_preprocessing(1, (28, 28), (56, 56)),
        FullImage(scales=(448,), mirrored=False),
        8,
    )
    found = enlarged.views_of(DecodedImage(digits[0].transpose(1, 2, 0)))[0]
    assert torch.equal(found, F.interpolate(torch.from_numpy(digits), (112, 112), mode="bilinear", antialias=True)[0])


def asked(seen: Split, name: str, batch: int = 20, rank: int = 0, ranks: int = 1) -> Predictions:
    """A small network's answers; by `dense` names it is asked for the mean of a map."""
    views = VIEWS[name]

    def model(images: Tensor) -> Tensor:
        maps = F.conv2d(images.float() / 255 - 0.5, WEIGHT, stride=4).relu()
        return maps.mean((2, 3)) @ HEAD

    source = MultiCropBatches(seen, GEOMETRY, views, batch, rank=rank, ranks=ranks)
    return predict_split(model, source, torch.device("cpu"), average=PROTOCOLS[name].average)


_random = torch.Generator().manual_seed(0)
WEIGHT, HEAD = torch.randn(16, 3, 5, 5, generator=_random), torch.randn(16, 6, generator=_random)


@pytest.mark.parametrize("name", VIEWS)
def test_the_same_digits_for_any_order_any_neighbours_and_any_number_of_ranks(name: str) -> None:
    places = [*range(11)]
    whole = asked(split(places), name)
    by_place = dict(zip(places, whole.logits, strict=True))
    assert len(np.unique(whole.logits, axis=0)) == 11
    for order in (places[::-1], [4, 9, 0, 7], [10]):
        found = asked(split(order), name)
        assert np.array_equal(found.logits, np.stack([by_place[place] for place in order]))
    for ranks in (2, 3):
        shares = [asked(split(places), name, rank=rank, ranks=ranks) for rank in range(ranks)]
        indices = np.concatenate([share.indices for share in shares])
        assert np.array_equal(np.sort(indices), whole.indices)
        assert np.array_equal(np.concatenate([share.logits for share in shares])[np.argsort(indices)], whole.logits)


@pytest.mark.parametrize("name", VIEWS)
def test_a_picture_that_cannot_be_read_is_named_and_changes_nothing_for_the_others(name: str) -> None:
    whole, found = asked(split([*range(11)]), name), asked(split([*range(11)], broken=(2, 10)), name)
    left = [place for place in range(11) if place not in (2, 10)]
    assert found.indices.tolist() == left
    assert np.array_equal(found.logits, whole.logits[left])
    assert [(one.index, one.file, one.reason) for one in found.unreadable] == [(2, "2.png", "torn"), (10, "10.png", "torn")]
    with pytest.raises(UserError, match=r"none of the 2 images can be read, 2.png first: torn"):
        asked(split([2, 10], broken=(2, 10)), name)


def test_what_is_no_picture_but_damaged_data_ends_the_evaluation() -> None:
    class Torn(Pictures):
        def image(self, index: int) -> ImageLike:
            raise UserError("the store is damaged")

    with pytest.raises(UserError, match="the store is damaged"):
        asked(Split(Torn([0]), np.zeros(1, np.int64)), "10")


@pytest.mark.parametrize(("name", "average"), [("10", scipy.special.softmax), ("multiscale", None)])
def test_windows_are_averaged_as_the_paper_does(name: str, average: Callable[..., np.ndarray] | None) -> None:
    source = MultiCropBatches(split([1]), GEOMETRY, VIEWS[name], 20)
    looks = source[0]
    assert not isinstance(looks, UserError)
    with torch.inference_mode():
        maps = [F.conv2d(stack.float() / 255 - 0.5, WEIGHT, stride=4).relu().mean((2, 3)) @ HEAD for stack in looks.stacks]
    rows = torch.cat(maps).double().numpy()[: source.views_per_image]
    found = scipy.special.softmax(asked(split([1]), name).logits.astype(np.float64), axis=1)[0]
    expected = average(rows, axis=1).mean(axis=0) if average else scipy.special.softmax(rows.mean(axis=0))
    other = scipy.special.softmax(rows.mean(axis=0)) if average else scipy.special.softmax(rows, axis=1).mean(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(found - other).max() > 1e-4  # the order of softmax and mean matters here


def test_probabilities_that_no_float_can_hold_are_averaged_all_the_same() -> None:
    logits = np.array([[[1e4, 0, -1e4], [0, 2e4, -1e4]]], np.float32)
    found = average_logits(logits, "probabilities")
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, [[-np.log(2), -np.log(2), -2e4 - np.log(2)]], rtol=1e-6)


def test_one_alone_stays_as_it_is_to_the_bit() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 1, 7)).astype(np.float32)
    assert np.array_equal(average_logits(logits, "probabilities"), logits[:, 0])
    assert np.array_equal(average_logits(logits, "scores"), logits[:, 0])


def test_of_a_square_picture_the_three_squares_are_one() -> None:
    windows = InceptionCrops().views(100, 100, 224)
    assert Counter(Counter(windows).values()) == {3: 48}
    assert Box(0, 0, 256, 256) in {window.box for window in windows}


def test_pictures_come_the_same_from_files_through_processes(tmp_path: Path) -> None:
    from PIL import Image

    for place in range(5):
        Image.fromarray(COFFEE[place * 20 : place * 20 + 60, : 50 + 9 * place]).save(tmp_path / f"{place}.jpg", quality=90)
    seen = Split(FileImages(tmp_path, [f"{place}.jpg" for place in range(5)]), np.zeros(5, np.int64))
    one = member()
    for name in ("10", "multiscale"):
        here, there = (
            predict_split(one.logits, MultiCropBatches(seen, GEOMETRY, VIEWS[name], 20), torch.device("cpu"), workers=w) for w in (0, 2)
        )
        assert np.array_equal(here.logits, there.logits)
