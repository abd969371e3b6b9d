"""`data info`: what a set holds, and the sheet that shows it."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convatlas.data import Dataset, open_dataset
from convatlas.data.curation.contact_sheet import draw_contact_sheet
from convatlas.data.curation.statistics import dataset_statistics
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.augment import Flip, PadCrop
from convatlas.data.transforms.preprocessing import center_crop_preprocessing, fixed_size_preprocessing
from convatlas.data.transforms.random_crop import RandomResizedCrop


def photos(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 10) -> Dataset:
    """Each class of a colour of its own, in halves of two brightnesses, so that sums are known."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.zeros((8, 12, 3), np.uint8)
            pixels[:, :6, label % 3] = 255
            pixels[0, 0] = i
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return open_dataset(f"folder:{root}")


def image(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_counts_sizes_and_colours_are_those_of_the_set(tmp_path: Path) -> None:
    dataset = photos(tmp_path)
    Image.new("RGB", (30, 20)).save(tmp_path / "cat" / "large.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "dog" / "small.png")
    summary = dataset_statistics(dataset := open_dataset(dataset.name), center_crop_preprocessing(3, (8, 12)))
    assert summary.classes == {"cat": {"train": 9, "val": 1, "test": 1}, "dog": {"train": 9, "val": 1, "test": 1}}
    assert (summary.n, summary.channels, summary.looked_at, summary.measured) == (22, 3, 22, 18)
    assert {what: sized[:2] for what, sized in summary.sizes.items()} == {"smallest": (3, 2), "median": (12, 8), "largest": (30, 20)}
    assert Path(summary.sizes["largest"].file).name == "large.png"


def test_mean_and_deviation_are_of_the_training_images_from_0_to_1(tmp_path: Path) -> None:
    dataset = photos(tmp_path, count=20)
    train = dataset.splits["train"]
    pixels = np.stack([train.images.image(i).decode(3, (8, 12)) for i in range(len(train))]) / 255
    summary = dataset_statistics(dataset, fixed_size_preprocessing(3, (8, 12), (8, 12)))
    np.testing.assert_allclose(summary.mean, pixels.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(summary.std, pixels.std((0, 1, 2)), atol=1e-4)


def test_the_sheet_shows_each_class_in_a_row(tmp_path: Path) -> None:
    dataset = photos(tmp_path)
    drawn = image(draw_contact_sheet(dataset))
    red, green = ((drawn == colour).all(axis=2) for colour in ((255, 0, 0), (0, 255, 0)))
    assert red.sum() > 5000
    assert green.sum() > 5000
    assert np.flatnonzero(red.any(axis=1)).max() < np.flatnonzero(green.any(axis=1)).min()


def test_below_stand_the_same_images_as_a_recipe_draws_them(tmp_path: Path) -> None:
    dataset = photos(tmp_path)
    training = TrainBatches(
        dataset.splits["train"], center_crop_preprocessing(3, (16, 16)), (PadCrop(2), Flip()), 4, 0, RandomResizedCrop()
    )
    alone, both = image(draw_contact_sheet(dataset)), image(draw_contact_sheet(dataset, 0, training, "drawn"))
    assert both.shape[1] == alone.shape[1]
    assert both.shape[0] > 1.5 * alone.shape[0]
    assert (image(draw_contact_sheet(dataset, 0, training, "drawn")) == both).all()
    other = TrainBatches(training.split, training.preprocessing, training.augment, 4, 1, training.crop)
    assert (image(draw_contact_sheet(dataset, 0, other, "drawn")) != both).any()


@pytest.mark.parametrize("classes", [tuple(f"class {i:02d}" for i in range(40)), ("\x1b[31m", "a$b$", "猫" * 60)])
def test_a_sheet_of_many_or_oddly_named_classes_keeps_its_size(tmp_path: Path, classes: tuple[str, ...]) -> None:
    drawn = image(draw_contact_sheet(photos(tmp_path, classes)))
    assert drawn.shape[0] <= 1400
    assert drawn.shape[1] <= 1400


def test_an_unreadable_image_is_not_on_the_sheet_and_does_not_stop_it(tmp_path: Path) -> None:
    photos(tmp_path)
    for name in ("a.jpg", "b.png"):
        (tmp_path / "cat" / name).write_bytes(b"no image")
    dataset = open_dataset(f"folder:{tmp_path}")
    training = TrainBatches(dataset.splits["train"], center_crop_preprocessing(3, (16, 16)), (), 4, 0)
    assert len(draw_contact_sheet(dataset, 0, training, "x")) > 1000
    assert dataset_statistics(dataset, center_crop_preprocessing(3, (8, 8))).looked_at == 20


def test_a_set_in_memory_has_a_sheet_too() -> None:
    dataset = open_dataset("digits")
    training = TrainBatches(dataset.splits["train"], fixed_size_preprocessing(1, (8, 8), (12, 12)), (PadCrop(1),), 4, 0)
    torch.manual_seed(0)
    drawn = image(draw_contact_sheet(dataset, 0, training, "digits"))
    assert (drawn[:, :, 0] == drawn[:, :, 1]).all()
    assert drawn.std() > 50
