"""`data info`: the statistics of a data set, and its contact sheet."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convatlas.data import Dataset, open_dataset
from convatlas.data.curation.contact_sheet import draw_contact_sheet
from convatlas.data.curation.statistics import dataset_statistics
from convatlas.data.loading.labeled_samples import LabeledSamples
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.augment import RandomCrop, RandomHorizontalFlip
from convatlas.data.transforms.preprocessing import center_crop_preprocessing, fixed_size_preprocessing
from convatlas.data.transforms.random_crop import RandomResizedCrop


def photos(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 10) -> Dataset:
    """Images whose left half has the colour of the class, and whose right half is black."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.zeros((8, 12, 3), np.uint8)
            pixels[:, :6, label % 3] = 255
            pixels[0, 0] = i, label, i  # no two images are equal
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return open_dataset(f"folder:{root}")


def decode_png(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_counts_and_sizes_are_those_of_the_data_set(tmp_path: Path) -> None:
    dataset = photos(tmp_path)
    Image.new("RGB", (30, 20)).save(tmp_path / "cat" / "large.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "dog" / "small.png")
    statistics = dataset_statistics(open_dataset(dataset.name), center_crop_preprocessing(3, (8, 12)))
    counts = {"train": 9, "val": 1, "test": 1}
    assert statistics.classes == {"cat": counts, "dog": counts}
    assert (statistics.n, statistics.channels) == (22, 3)
    assert (statistics.sizes_sampled, statistics.pixels_sampled) == (22, 18)
    assert {rank: image_size[:2] for rank, image_size in statistics.sizes.items()} == {
        "smallest": (3, 2),
        "median": (12, 8),
        "largest": (30, 20),
    }
    assert Path(statistics.sizes["largest"].file).name == "large.png"


def test_mean_and_deviation_are_of_the_training_images_from_0_to_1(tmp_path: Path) -> None:
    dataset = photos(tmp_path, count=20)
    train = dataset.splits["train"]
    pixels = np.stack([train.images.image(i).decode(3, (8, 12)) for i in range(len(train))]) / 255
    statistics = dataset_statistics(dataset, fixed_size_preprocessing(3, (8, 12), (8, 12)))
    np.testing.assert_allclose(statistics.mean, pixels.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(statistics.std, pixels.std((0, 1, 2)), atol=1e-4)


def test_the_sheet_shows_each_class_in_a_row(tmp_path: Path) -> None:
    sheet = decode_png(draw_contact_sheet(photos(tmp_path)))
    red, green = ((sheet == color).all(axis=2) for color in ((255, 0, 0), (0, 255, 0)))
    assert red.sum() > 5000
    assert green.sum() > 5000
    assert np.flatnonzero(red.any(axis=1)).max() < np.flatnonzero(green.any(axis=1)).min()


def test_the_sheet_shows_the_augmentations_of_a_recipe_below(tmp_path: Path) -> None:
    dataset = photos(tmp_path)
    augment = (RandomCrop(2), RandomHorizontalFlip())
    preprocessing = center_crop_preprocessing(3, (16, 16))
    train = dataset.splits["train"]
    training = TrainBatches(LabeledSamples(train, preprocessing, RandomResizedCrop()), augment, 4, 0)
    plain = decode_png(draw_contact_sheet(dataset))
    augmented = decode_png(draw_contact_sheet(dataset, 0, training, "drawn"))
    assert augmented.shape[1] == plain.shape[1]
    assert augmented.shape[0] > 1.5 * plain.shape[0]
    assert (decode_png(draw_contact_sheet(dataset, 0, training, "drawn")) == augmented).all()
    other_seed = TrainBatches(LabeledSamples(train, preprocessing, RandomResizedCrop()), augment, 4, 1)
    assert (decode_png(draw_contact_sheet(dataset, 0, other_seed, "drawn")) != augmented).any()


@pytest.mark.parametrize(
    "classes", [tuple(f"class {i:02d}" for i in range(40)), ("\x1b[31m", "a$b$", "猫" * 60)]
)
def test_a_sheet_of_many_or_oddly_named_classes_keeps_its_size(
    tmp_path: Path, classes: tuple[str, ...]
) -> None:
    sheet = decode_png(draw_contact_sheet(photos(tmp_path, classes)))
    assert sheet.shape[0] <= 1400
    assert sheet.shape[1] <= 1400


def test_an_unreadable_image_is_left_out_of_sheet_and_statistics(tmp_path: Path) -> None:
    photos(tmp_path)
    for name in ("a.jpg", "b.png"):
        (tmp_path / "cat" / name).write_bytes(b"no image")
    dataset = open_dataset(f"folder:{tmp_path}")
    training = TrainBatches(
        LabeledSamples(dataset.splits["train"], center_crop_preprocessing(3, (16, 16))), (), 4, 0
    )
    assert len(draw_contact_sheet(dataset, 0, training, "x")) > 1000
    assert dataset_statistics(dataset, center_crop_preprocessing(3, (8, 8))).sizes_sampled == 20


def test_a_set_in_memory_has_a_sheet_too() -> None:
    dataset = open_dataset("digits")
    preprocessing = fixed_size_preprocessing(1, (8, 8), (12, 12))
    training = TrainBatches(LabeledSamples(dataset.splits["train"], preprocessing), (RandomCrop(1),), 4, 0)
    sheet = decode_png(draw_contact_sheet(dataset, 0, training, "digits"))
    assert (sheet[:, :, 0] == sheet[:, :, 1]).all()
    assert sheet.std() > 50
