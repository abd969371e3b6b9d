"""The scale of a data set of deep images: measured once, in the model file, the same in every command."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import convatlas as ca
from convatlas.data import open_dataset, open_source
from convatlas.data.curation.check import check
from convatlas.data.curation.pack import pack
from convatlas.data.images.decode import open_image
from convatlas.data.transforms.preprocessing import Preprocessing, center_crop_preprocessing
from convatlas.data.transforms.value_range import dataset_value_range
from convatlas.errors import UsageError, UserError
from convatlas.recipes import Epochs
from convatlas.storage.records import from_json, to_json


def write_images(folder: Path, scale: float, dtype: Any, kind: str = "tif", size: int = 32) -> Path:
    """Two classes that differ in brightness alone, from 0 to `scale`."""
    random = np.random.default_rng(0)
    for name, low in (("dark", 0.0), ("light", 0.5)):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            values: NDArray[Any] = random.uniform(low, low + 0.5, (size, size)) * scale
            Image.fromarray(values.astype(dtype)).save(folder / name / f"{number}.{kind}")
    return folder


@pytest.mark.parametrize(
    ("scale", "dtype", "kind", "expected"),
    [
        (4095, np.uint16, "png", (0, 4095)),
        (65535, np.uint16, "tif", (0, 65535)),
        (1, np.float32, "tif", (0, 1)),
        (255, np.uint8, "png", None),
    ],
)
def test_the_scale_is_that_of_the_training_images(
    tmp_path: Path, scale: float, dtype: Any, kind: str, expected: Any
) -> None:
    write_images(tmp_path, scale, dtype, kind)
    assert dataset_value_range(open_dataset(f"folder:{tmp_path}")) == expected


def test_integers_and_floats_in_a_data_set_are_refused_by_name(tmp_path: Path) -> None:
    write_images(tmp_path, 4095, np.uint16)
    for number in range(12):
        Image.fromarray(np.full((8, 8), number / 12, np.float32)).save(tmp_path / "dark" / f"f{number}.tif")
    with pytest.raises(UserError, match=r"f\d+\.tif has floating .* integers, which no single scale fits"):
        dataset_value_range(open_dataset(f"folder:{tmp_path}"))


def test_a_record_of_images_of_8_bits_is_written_as_before() -> None:
    preprocessing = center_crop_preprocessing(1, (8, 8))
    assert b"value_range" not in to_json(preprocessing)
    deep = center_crop_preprocessing(1, (8, 8), value_range=(0, 4095))
    assert from_json(to_json(deep), Preprocessing, "x") == deep
    with pytest.raises(UsageError, match="value_range should be two finite numbers"):
        from_json(to_json(deep).replace(b"4095.0", b"-1.0"), Preprocessing, "x")


def test_check_says_the_scale_and_names_images_that_are_not_finite(tmp_path: Path) -> None:
    write_images(tmp_path, 1, np.float32)
    bad = tmp_path / "dark" / "nan.tif"
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(bad)
    report = check(open_source(f"folder:{tmp_path}"), workers=1)
    assert [(entry.file, "64 pixels are NaN" in entry.reason) for entry in report.bad] == [(str(bad), True)]
    assert any("0 to 1 become 0 to 255" in note for note in report.split_notes)


def test_a_store_of_packed_pixels_keeps_the_scale(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4095, np.uint16)
    dataset = open_dataset(f"folder:{tmp_path / 'photos'}")
    pack(dataset, tmp_path / "store", workers=1)
    packed = open_dataset(f"packed:{tmp_path / 'store'}")
    assert dataset_value_range(packed) == (0, 4095)
    preprocessing = center_crop_preprocessing(1, (32, 32), value_range=(0, 4095))
    expected, _ = preprocessing.load_batch(dataset.splits["test"].images, np.arange(2))
    stored, _ = preprocessing.load_batch(packed.splits["test"].images, np.arange(2))
    assert (stored == expected).all()


def test_training_evaluation_and_prediction_share_the_scale(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 4095, np.uint16)
    run = ca.Run(model="lenet5", data=f"folder:{photos}", seed=0)
    run = run.replace(recipe=run.recipe.at_batch(8).replace(budget=Epochs(1)), precision="fp32")
    ca.train(run, out=tmp_path / "run", workers=0)
    classifier = ca.load(tmp_path / "run")
    assert classifier.metadata.preprocessing.value_range == (0.0, 4095.0)
    assert "0 to 4095 become 0 to 255" in (tmp_path / "run" / "run.json").read_text()

    # one dim pixel more or less does not change how the others are read, in a file of any brightness
    dim = np.full((32, 32), 200, np.uint16)
    brighter = dim.copy()
    brighter[0, 0] = 300
    images = []
    for values in (dim, brighter):
        Image.fromarray(values).save(tmp_path / "x.tif")
        images.append(classifier.metadata.preprocessing.transform(open_image(tmp_path / "x.tif")))
    assert (images[0][:, 5:, 5:] == images[1][:, 5:, 5:]).all()
    assert images[0].max() == round(200 * 255 / 4095)
