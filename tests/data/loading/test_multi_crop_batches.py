"""Multi-crop batches: a network's logits depend on the image alone, not on other images, their order, or
ranks."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import skimage.data
import torch
import torch.nn.functional as F
from helpers.ensemble_members import SIZES, make_classifier
from PIL import Image
from torch import Tensor

from convatlas.data.dataset import ArrayImages, Split
from convatlas.data.images.decode import DecodedImage, ImageLike, Pixels
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.images.resize import Box
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.loading.multi_crop_batches import MultiCropBatches
from convatlas.data.sources.files import FileImages
from convatlas.data.transforms.multi_crop import FullImage, InceptionCrops, MultiCrop, TenCrop
from convatlas.data.transforms.preprocessing import center_crop_preprocessing, fixed_size_preprocessing
from convatlas.errors import UserError
from convatlas.evaluation.ensemble import average_logits
from convatlas.evaluation.predict import predict_split
from convatlas.evaluation.predictions import Predictions
from convatlas.evaluation.protocols import PROTOCOLS

COFFEE = skimage.data.coffee()  # type: ignore[no-untyped-call]  # 400 x 600
PREPROCESSING = center_crop_preprocessing(3, (32, 32), 8 / 7)
VIEWS = {name: protocol.views for name, protocol in PROTOCOLS.items() if protocol.views is not None}


class Photos:
    """Photographs of several sizes, made from their ids; those in `broken` cannot be read."""

    def __init__(self, ids: list[int], broken: tuple[int, ...] = ()):
        self.ids = ids
        self.broken = broken
        self.num_decoded = Counter[int]()

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, index: int) -> str:
        return f"{self.ids[index]}.png"

    def image(self, index: int) -> ImageLike:
        photo = self.ids[index]
        if photo in self.broken:
            raise UnreadableImage(self.name(index), "torn")
        height, width = SIZES[photo % len(SIZES)]
        top, left = 53 * photo % (400 - height), 71 * photo % (600 - width)
        return CountedImage(COFFEE[top : top + height, left : left + width], photo, self.num_decoded)


class CountedImage(DecodedImage):
    """An image that counts how often it is decoded."""

    def __init__(self, array: Pixels, photo: int, num_decoded: Counter[int]):
        super().__init__(array)
        self.photo = photo
        self.num_decoded = num_decoded

    def decode(
        self, channels: int, min_size: tuple[int, int] = (0, 0), value_range: ValueRange | None = None
    ) -> Pixels:
        self.num_decoded[self.photo] += 1
        return super().decode(channels, min_size)


def split_of(ids: list[int], broken: tuple[int, ...] = ()) -> Split:
    return Split(Photos(ids, broken), np.array(ids, np.int64) % 6)


def resize_by_torch(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, h, w) -> (3, *size), by torch's public function."""
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


@pytest.mark.parametrize(("height", "width"), [(300, 460), (380, 290)])
def test_the_144_crops_of_a_photograph_have_the_papers_pixels(height: int, width: int) -> None:
    photo = torch.from_numpy(COFFEE[:height, :width].copy()).permute(2, 0, 1)
    expected = []
    for scale in (256, 288, 320, 352):  # "4 scales where the shorter dimension is 256, 288, 320 and 352"
        size = (scale, width * scale // height) if height < width else (height * scale // width, scale)
        image = resize_by_torch(photo, size)
        # "take the left, center and right square of these resized images (top, center and bottom squares)"
        for third in range(3):
            y, x = (round((side - scale) * third / 2) for side in size)
            square = image[:, y : y + scale, x : x + scale]
            # "the 4 corners and the center 224x224 crop as well as the square resized to 224x224"
            room = scale - 224
            for dy, dx in ((0, 0), (0, room), (room, 0), (room, room), (room // 2, room // 2)):
                expected.append(square[:, dy : dy + 224, dx : dx + 224])
            expected.append(resize_by_torch(square, (224, 224)))
    expected += [image.flip(2) for image in expected]  # "and their mirrored versions"
    batches = MultiCropBatches(split_of([0]), center_crop_preprocessing(3, (224, 224)), InceptionCrops(), 8)
    crops = [crop.contiguous() for crop in batches.views_of(DecodedImage(COFFEE[:height, :width]))]
    crop_counts = Counter(crop.numpy().tobytes() for crop in crops)
    assert crop_counts == Counter(crop.numpy().tobytes() for crop in expected)
    assert len(crops) == len(crop_counts) == 144


def test_without_flipped_views_half_of_the_views_are_left() -> None:
    for name, count in (("10", 10), ("12", 12), ("144", 144), ("dense", 2), ("multiscale", 10)):
        batches = MultiCropBatches(split_of([0]), PREPROCESSING, VIEWS[name], 8)
        assert batches.views_per_image == count
        unflipped = MultiCropBatches(split_of([0]), PREPROCESSING, VIEWS[name], 8, hflip_safe=False)
        assert unflipped.views_per_image == count // 2


@pytest.mark.parametrize("name", VIEWS)
def test_every_image_is_decoded_once(name: str) -> None:
    split = split_of([3, 1, 4, 0])
    batches = MultiCropBatches(split, PREPROCESSING, VIEWS[name], 8)
    for step in range(batches.steps):
        assert not isinstance(batches[step], UserError)
    assert isinstance(split.images, Photos)
    assert split.images.num_decoded == {3: 1, 1: 1, 4: 1, 0: 1}


@pytest.mark.parametrize(
    ("views", "batch_size", "num_rows", "images_per_step"),
    [(TenCrop(), 250, 250, 25), (TenCrop(), 7, 5, 1), (VIEWS["144"], 64, 48, 1)],
)
def test_all_stacks_have_one_shape(
    views: MultiCrop, batch_size: int, num_rows: int, images_per_step: int
) -> None:
    split = split_of([*range(images_per_step + 2)])
    batches = MultiCropBatches(split, PREPROCESSING, views, batch_size)
    assert batches.images_per_step == images_per_step
    for step in range(batches.steps):
        batch = batches[step]
        assert not isinstance(batch, UserError)
        assert {stack.shape for stack in batch.stacks} == {(num_rows, 3, 32, 32)}
        assert sum(map(len, batch.stacks)) == images_per_step * batches.views_per_image


def test_views_include_padding_and_are_otherwise_resized_once() -> None:
    digit = np.random.default_rng(0).integers(1, 256, (1, 1, 28, 28), dtype=np.uint8)
    split = Split(ArrayImages(digit), np.zeros(1, np.int64))
    image = DecodedImage(digit[0].transpose(1, 2, 0))
    padded = MultiCropBatches(
        split,
        fixed_size_preprocessing(1, (28, 28), (32, 32)),
        FullImage(scales=(224,), mirrored=False),
        8,
    )
    assert torch.equal(padded.views_of(image)[0], F.pad(torch.from_numpy(digit[0]), (2, 2, 2, 2)))
    enlarged = MultiCropBatches(
        split,
        fixed_size_preprocessing(1, (28, 28), (56, 56)),
        FullImage(scales=(448,), mirrored=False),
        8,
    )
    expected = F.interpolate(torch.from_numpy(digit), (112, 112), mode="bilinear", antialias=True)[0]
    assert torch.equal(enlarged.views_of(image)[0], expected)


_GENERATOR = torch.Generator().manual_seed(0)
CONV_WEIGHT = torch.randn(16, 3, 5, 5, generator=_GENERATOR)
HEAD_WEIGHT = torch.randn(16, 6, generator=_GENERATOR)


def small_network(images: Tensor) -> Tensor:
    """uint8 images of any size -> logits (n, 6)."""
    maps = F.conv2d(images.float() / 255 - 0.5, CONV_WEIGHT, stride=4).relu()
    return maps.mean((2, 3)) @ HEAD_WEIGHT


def predict(split: Split, name: str, batch_size: int = 20, rank: int = 0, world_size: int = 1) -> Predictions:
    """The small network's predictions by a protocol."""
    views = VIEWS[name]
    batches = MultiCropBatches(split, PREPROCESSING, views, batch_size, rank=rank, world_size=world_size)
    return predict_split(small_network, batches, torch.device("cpu"), average=PROTOCOLS[name].average)


@pytest.mark.parametrize("name", VIEWS)
def test_logits_are_bit_identical_in_any_order_and_on_any_number_of_ranks(name: str) -> None:
    ids = [*range(11)]
    predictions = predict(split_of(ids), name)
    logits_by_id = dict(zip(ids, predictions.logits, strict=True))
    assert len(np.unique(predictions.logits, axis=0)) == 11
    for order in (ids[::-1], [4, 9, 0, 7], [10]):
        logits = predict(split_of(order), name).logits
        assert np.array_equal(logits, np.stack([logits_by_id[photo] for photo in order]))
    for world_size in (2, 3):
        shares = [
            predict(split_of(ids), name, rank=rank, world_size=world_size) for rank in range(world_size)
        ]
        indices = np.concatenate([share.indices for share in shares])
        assert np.array_equal(np.sort(indices), predictions.indices)
        logits = np.concatenate([share.logits for share in shares])[np.argsort(indices)]
        assert np.array_equal(logits, predictions.logits)


@pytest.mark.parametrize("name", VIEWS)
def test_an_unreadable_image_is_named_and_does_not_change_the_others(name: str) -> None:
    expected = predict(split_of([*range(11)]), name)
    predictions = predict(split_of([*range(11)], broken=(2, 10)), name)
    readable = [photo for photo in range(11) if photo not in (2, 10)]
    assert predictions.indices.tolist() == readable
    assert np.array_equal(predictions.logits, expected.logits[readable])
    unreadable = [(sample.index, sample.file, sample.reason) for sample in predictions.unreadable]
    assert unreadable == [(2, "2.png", "torn"), (10, "10.png", "torn")]
    with pytest.raises(UserError, match=r"none of the 2 images can be read, 2.png first: torn"):
        predict(split_of([2, 10], broken=(2, 10)), name)


def test_a_damaged_store_ends_the_evaluation() -> None:
    class DamagedStore(Photos):
        def image(self, index: int) -> ImageLike:
            raise UserError("the store is damaged")

    with pytest.raises(UserError, match="the store is damaged"):
        predict(Split(DamagedStore([0]), np.zeros(1, np.int64)), "10")


@pytest.mark.parametrize(("name", "averages_probabilities"), [("10", True), ("multiscale", False)])
def test_views_are_averaged_as_in_the_paper(name: str, averages_probabilities: bool) -> None:
    batches = MultiCropBatches(split_of([1]), PREPROCESSING, VIEWS[name], 20)
    batch = batches[0]
    assert not isinstance(batch, UserError)
    with torch.inference_mode():
        logits = torch.cat([small_network(stack) for stack in batch.stacks])
    view_logits = logits.double().numpy()[: batches.views_per_image]
    mean_of_probabilities = scipy.special.softmax(view_logits, axis=1).mean(axis=0)
    probabilities_of_mean = scipy.special.softmax(view_logits.mean(axis=0))
    expected, unexpected = mean_of_probabilities, probabilities_of_mean
    if not averages_probabilities:
        expected, unexpected = unexpected, expected
    prediction = predict(split_of([1]), name).logits.astype(np.float64)
    probabilities = scipy.special.softmax(prediction, axis=1)[0]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    assert np.abs(probabilities - unexpected).max() > 1e-4  # the order of softmax and mean matters


def test_probabilities_too_small_for_a_float_are_averaged() -> None:
    logits = np.array([[[1e4, 0, -1e4], [0, 2e4, -1e4]]], np.float32)
    average = average_logits(logits, "probabilities")
    assert np.isfinite(average).all()
    np.testing.assert_allclose(average, [[-np.log(2), -np.log(2), -2e4 - np.log(2)]], rtol=1e-6)


def test_the_average_of_one_view_is_bit_identical_to_it() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 1, 7)).astype(np.float32)
    assert np.array_equal(average_logits(logits, "probabilities"), logits[:, 0])
    assert np.array_equal(average_logits(logits, "scores"), logits[:, 0])


def test_the_three_squares_of_a_square_image_are_equal() -> None:
    views = InceptionCrops().views(100, 100, 224)
    assert Counter(Counter(views).values()) == {3: 48}
    assert Box(0, 0, 256, 256) in {view.box for view in views}


def test_predictions_are_the_same_with_worker_processes(tmp_path: Path) -> None:
    for i in range(5):
        photo = COFFEE[i * 20 : i * 20 + 60, : 50 + 9 * i]
        Image.fromarray(photo).save(tmp_path / f"{i}.jpg", quality=90)
    split = Split(FileImages(tmp_path, [f"{i}.jpg" for i in range(5)]), np.zeros(5, np.int64))
    classifier = make_classifier()
    cpu = torch.device("cpu")
    for name in ("10", "multiscale"):
        batches = MultiCropBatches(split, PREPROCESSING, VIEWS[name], 20)
        alone, with_workers = (
            predict_split(classifier.logits, batches, cpu, num_workers=num_workers) for num_workers in (0, 2)
        )
        assert np.array_equal(alone.logits, with_workers.logits)
