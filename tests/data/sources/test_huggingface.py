"""Data sets that the library `datasets` loads have the same content as in other forms.

No program of theirs runs.
"""

import io
import os
import pickle
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from convatlas.data import open_dataset
from convatlas.data.dataset import Dataset
from convatlas.data.images.decode import EncodedImage
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.loading.labeled_samples import LabeledSamples
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.sources import huggingface
from convatlas.data.transforms.preprocessing import center_crop_preprocessing
from convatlas.errors import UserError

RNG = np.random.default_rng(0)
CLASSES = datasets.ClassLabel(names=["dog", "cat"])  # not in order of the alphabet
IMAGES = datasets.Image()
NONE: tuple[list[Any], Any] = ([], None)  # no such column


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and the library's cache is the test's own."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def encoded(gray: bool = False, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (12, 16) if gray else (12, 16, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def split(count: int, **columns: tuple[list[Any], Any]) -> Any:
    """A split of colour images, dogs and cats in turn.

    `columns` adds or replaces columns: values and feature.
    """
    usual: dict[str, tuple[list[Any], Any]] = {
        "image": ([encoded() for _ in range(count)], IMAGES),
        "label": ([i % 2 for i in range(count)], CLASSES),
    }
    columns = {name: column for name, column in {**usual, **columns}.items() if column != NONE}
    features = datasets.Features({name: feature for name, (_, feature) in columns.items()})
    return datasets.Dataset.from_dict(
        {name: values for name, (values, _) in columns.items()}, features=features
    )


def save(path: Path, splits: Mapping[str, Any]) -> str:
    datasets.DatasetDict(splits).save_to_disk(str(path))
    return f"hf:{path}"


def pixels(dataset: Dataset, name: str) -> list[tuple[str, bytes]]:
    split = dataset.splits[name]
    return sorted(
        (dataset.classes[split.labels[i]], split.images.image(i).decode(3, (0, 0)).tobytes())
        for i in range(len(split))
    )


@pytest.mark.parametrize("form", ["parquet", "save_to_disk", "files"])
def test_a_data_set_has_the_content_of_a_folder_of_its_files(tmp_path: Path, form: str) -> None:
    rows: dict[str, list[tuple[bytes, int]]] = {
        p: [(encoded(kind="JPEG"), i % 2) for i in range(n)] for p, n in (("train", 40), ("test", 6))
    }
    for name, images in rows.items():
        for i, (data, label) in enumerate(images):
            file = tmp_path / "folder" / name / CLASSES.names[label] / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    path = tmp_path / ("folder" if form == "files" else "hub")
    splits = {
        name: split(len(images), image=([d for d, _ in images], IMAGES)) for name, images in rows.items()
    }
    if form == "parquet":
        for name, table in splits.items():
            table.to_parquet(str(path / f"{name}.parquet"))
    elif form == "save_to_disk":
        save(path, splits)
    dataset = open_dataset(f"hf:{path}")
    expected = open_dataset(f"folder:{tmp_path / 'folder'}")
    assert dataset.classes == (("cat", "dog") if form == "files" else ("dog", "cat"))
    assert list(dataset.splits) == ["train", "val", "test"]
    for name, hub_split in dataset.splits.items():
        assert pixels(dataset, name) == pixels(
            expected, name
        )  # val is split off by content, and so is the same
        assert sorted(hub_split.content_hashes) == sorted(expected.splits[name].content_hashes)


def test_worker_processes_give_the_same_batches_as_none(tmp_path: Path) -> None:
    dataset = open_dataset(save(tmp_path / "hub", {"train": split(40)}))
    training = TrainBatches(
        LabeledSamples(dataset.splits["train"], center_crop_preprocessing(3, (12, 12))), (), 8, seed=0
    )
    expected, batches = (list(iterate_batches(training, 0, 8, workers)) for workers in (0, 2))
    assert len(expected) == len(batches) == 8
    for (_, batch), (_, expected_batch) in zip(batches, expected, strict=True):
        assert torch.equal(batch.images, expected_batch.images)
        assert torch.equal(batch.targets, expected_batch.targets)


def test_pickled_images_hold_no_content(tmp_path: Path) -> None:
    name = save(tmp_path / "hub", {"train": split(40)})
    images = huggingface.open_huggingface(name.removeprefix("hf:")).images
    first = images.image(3).decode(3, (0, 0))
    pickled = pickle.dumps(images)
    assert len(pickled) < 2_000
    assert (pickle.loads(pickled).image(3).decode(3, (0, 0)) == first).all()


def test_a_second_opening_does_not_read_the_images_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = save(tmp_path / "hub", {"train": split(40)})
    before = open_dataset(name).sha256
    monkeypatch.delattr(huggingface, "_scan")
    assert open_dataset(name).sha256 == before


def test_splits_are_understood_under_their_usual_names(tmp_path: Path) -> None:
    dataset = open_dataset(
        save(
            tmp_path / "hub",
            {"training": split(40), "validation": split(4), "testing": split(6), "sketches": split(2)},
        )
    )
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 40,
        "val": 4,
        "test": 6,
        "sketches": 2,
    }
    assert "validation was taken as the val split" in dataset.notes
    with pytest.raises(UserError, match="two splits for val"):
        open_dataset(
            save(tmp_path / "twice", {"train": split(40), "valid": split(4), "validation": split(4)})
        )


def test_a_data_set_without_splits_is_split_80_10_10(tmp_path: Path) -> None:
    split(40).save_to_disk(str(tmp_path / "hub"))
    dataset = open_dataset(f"hf:{tmp_path / 'hub'}")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 32, "val": 4, "test": 4}
    assert dataset.splits["val"].images.name(0).startswith(f"hf:{tmp_path / 'hub'} #")


def test_images_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    train = split(40, label=([i % 2 for i in range(38)] + [-1, None], CLASSES))
    dataset = open_dataset(
        save(
            tmp_path / "hub",
            {"train": train, "validation": split(4), "test": split(6, label=([-1] * 6, CLASSES))},
        )
    )
    assert "2 images of train have no label and are left out" in dataset.notes
    assert "6 images of test have no label and are left out" in dataset.notes
    assert (
        sum(len(dataset.splits[name]) for name in ("train", "test")) == 38
    )  # the test images were held out of train
    assert all((split.labels >= 0).all() for split in dataset.splits.values())


@pytest.mark.parametrize(
    ("values", "classes"), [(["b", "a"], ("a", "b")), ([10, 9], ("9", "10"))], ids=["text", "whole numbers"]
)
def test_a_plain_column_of_labels_gives_classes_in_order(
    tmp_path: Path, values: list[Any], classes: tuple[str, ...]
) -> None:
    kind = datasets.Value("string" if isinstance(values[0], str) else "int64")
    dataset = open_dataset(
        save(tmp_path / "hub", {"train": split(40, label=NONE, **{"class": (values * 20, kind)})})
    )
    assert dataset.classes == classes
    assert len(dataset.splits["train"]) == 32


def test_label_and_fine_label_are_preferred_among_columns_of_classes(tmp_path: Path) -> None:
    coarse = ([0] * 40, datasets.ClassLabel(names=["animal"]))
    fine = ([i % 2 for i in range(40)], CLASSES)
    assert open_dataset(save(tmp_path / "a", {"train": split(40, coarse_label=coarse)})).classes == (
        "dog",
        "cat",
    )
    assert open_dataset(
        save(tmp_path / "b", {"train": split(40, label=NONE, coarse_label=coarse, fine_label=fine)})
    ).classes == (
        "dog",
        "cat",
    )
    columns = {"label": coarse, "fine_label": fine}
    assert huggingface.open_huggingface(
        save(tmp_path / "d", {"train": split(40, **columns)}).removeprefix("hf:")
    ).classes == ("animal",)
    with pytest.raises(UserError, match="several columns of classes, genus, species: expected one"):
        open_dataset(save(tmp_path / "c", {"train": split(40, label=NONE, genus=coarse, species=fine)}))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"depth": ([encoded()] * 4, IMAGES)}, "several columns of images, image, depth: expected one"),
        ({"image": (["a"] * 4, datasets.Value("string"))}, "no column of images among image, label"),
        ({"label": ([0.5] * 4, datasets.Value("float32"))}, "no column of classes among image, label"),
        ({"label": NONE}, "no column of classes among image"),
    ],
)
def test_missing_and_ambiguous_columns_are_named(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_dataset(save(tmp_path / "hub", {"train": split(4, **columns)}))


def test_gray_images_have_one_channel(tmp_path: Path) -> None:
    images = [encoded(gray=True) for _ in range(40)]
    assert open_dataset(save(tmp_path / "gray", {"train": split(40, image=(images, IMAGES))})).channels == 1
    images[7] = encoded()
    assert open_dataset(save(tmp_path / "color", {"train": split(40, image=(images, IMAGES))})).channels == 3


def by_name(path: Path, names: list[str | None]) -> str:
    """A set whose images are in files, and its rows name them."""
    path.mkdir(parents=True, exist_ok=True)
    rows = [None if name is None else {"bytes": None, "path": name} for name in names]
    pyarrow.parquet.write_table(split(len(names), image=(rows, IMAGES)).data.table, path / "train.parquet")
    return f"hf:{path}"


@pytest.mark.parametrize("broken", [b"no image", b"", None])
def test_a_broken_image_is_named_by_its_split_and_row(tmp_path: Path, broken: bytes | None) -> None:
    images = [*(encoded() for _ in range(17)), broken, *(encoded() for _ in range(22))]
    dataset = open_dataset(
        save(
            tmp_path / "hub", {"train": split(40, image=(images, IMAGES)), "val": split(4), "test": split(4)}
        )
    )
    with pytest.raises(UnreadableImage) as caught:
        dataset.splits["train"].images.image(17)
    assert caught.value.name == dataset.splits["train"].images.name(17) == f"hf:{tmp_path / 'hub'} train #17"


def test_bytes_in_a_row_are_taken_whatever_file_they_came_from(tmp_path: Path) -> None:
    rows = [{"bytes": encoded(), "path": f"/somewhere/else/{i}.png"} for i in range(40)]
    images = huggingface.open_huggingface(
        save(tmp_path / "hub", {"train": split(40, image=(rows, IMAGES))}).removeprefix("hf:")
    ).images
    assert all(
        isinstance(picture := images.image(i), EncodedImage) and picture.data == rows[i]["bytes"]
        for i in range(40)
    )


def test_a_file_that_was_repaired_is_read_again(tmp_path: Path) -> None:
    for i in range(40):
        file = tmp_path / "hub" / CLASSES.names[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded() if i else b"broken")
    before = open_dataset(f"hf:{tmp_path / 'hub'}").sha256
    (tmp_path / "hub" / "dog" / "0.png").write_bytes(encoded())
    os.utime(tmp_path / "hub" / "dog" / "0.png", (1, 1))
    assert open_dataset(f"hf:{tmp_path / 'hub'}").sha256 != before


def test_rows_may_name_files_and_a_missing_one_is_reported(tmp_path: Path) -> None:
    (tmp_path / "hub" / "images").mkdir(parents=True)
    names: list[str | None] = [f"images/{i}.png" for i in range(40)]
    for name in names[:-1]:
        (tmp_path / "hub" / str(name)).write_bytes(encoded())
    images = huggingface.open_huggingface(by_name(tmp_path / "hub", names).removeprefix("hf:")).images
    assert images.image(38).height == 12
    with pytest.raises(UnreadableImage, match=r"images/39\.png: No such file"):
        images.image(39)


@pytest.mark.parametrize("name", ["{outside}", "../outside.png", "images/../../outside.png"])
def test_a_row_that_names_a_file_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(encoded())
    with pytest.raises(
        UserError, match=r"train #1 is said to be in .*outside\.png, which is not its own folder"
    ):
        open_dataset(by_name(tmp_path / "hub", [None, name.format(outside=outside), *([None] * 6)]))


def test_tables_outside_the_folder_are_refused(tmp_path: Path) -> None:
    name = save(tmp_path / "hub", {"train": split(40)})
    (tmp_path / "hub" / "train").rename(tmp_path / "elsewhere")
    (tmp_path / "hub" / "dataset_dict.json").write_text('{"splits": ["../elsewhere"]}')
    with pytest.raises(UserError, match="which is not its own folder"):
        open_dataset(name)


def test_tables_that_lead_out_of_their_file_are_refused(tmp_path: Path) -> None:
    image = encoded()
    name = save(tmp_path / "hub", {"train": split(40, image=([image] * 40, IMAGES))})
    (file,) = (tmp_path / "hub" / "train").glob("*.arrow")
    content = file.read_bytes()
    offsets = struct.pack("<3i", len(image), 2 * len(image), 3 * len(image))
    assert content.count(offsets) == 1
    file.write_bytes(content.replace(offsets, struct.pack("<3i", len(image), 1 << 30, 3 * len(image))))
    with pytest.raises(UserError, match="is damaged"):
        open_dataset(name)
    file.write_bytes(content[:200])
    with pytest.raises(UserError, match="cannot be loaded"):
        open_dataset(name)


def test_a_change_while_in_use_is_noticed_by_a_new_process(tmp_path: Path) -> None:
    sent = pickle.dumps(
        huggingface.open_huggingface(save(tmp_path / "hub", {"train": split(40)}).removeprefix("hf:")).images
    )
    (file,) = (tmp_path / "hub" / "train").glob("*.arrow")
    os.utime(file, (1, 1))
    with pytest.raises(UserError, match="changed while it is in use"):
        pickle.loads(sent).image(0)


def test_a_label_beyond_the_classes_is_named(tmp_path: Path) -> None:
    table = split(40).data.table
    (tmp_path / "hub").mkdir()
    labels = pyarrow.array([0] * 39 + [2])
    pyarrow.parquet.write_table(
        table.set_column(1, table.schema.field("label"), labels), tmp_path / "hub" / "train.parquet"
    )
    with pytest.raises(UserError, match="train #39 has the label 2, expected 0 to 1"):
        open_dataset(f"hf:{tmp_path / 'hub'}")


def test_a_configuration_is_chosen_by_name_or_all_are_listed(tmp_path: Path) -> None:
    for name, count in (("few", 20), ("many", 40)):
        split(count).to_parquet(str(tmp_path / "hub" / name / "train.parquet"))
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in ("few", "many"))
    (tmp_path / "hub" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert len(open_dataset(f"hf:{tmp_path / 'hub'}:many").splits["train"]) == 32
    with pytest.raises(
        UserError, match=r"has several configurations: expected hf:.*:CONFIG with one of 'few', 'many'"
    ):
        open_dataset(f"hf:{tmp_path / 'hub'}")
    with pytest.raises(
        UserError, match=r"has no configuration 'most': expected .* with one of 'few', 'many'"
    ):
        open_dataset(f"hf:{tmp_path / 'hub'}:most")
    with pytest.raises(UserError, match="save_to_disk wrote has no configurations"):
        open_dataset(save(tmp_path / "saved", {"train": split(40)}) + ":many")


def test_splits_that_are_none_or_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no rows"):
        open_dataset(save(tmp_path / "none", {}))
    with pytest.raises(UserError, match="has other columns in some of its splits train, test"):
        open_dataset(
            save(
                tmp_path / "two",
                {"train": split(40), "test": split(4, label=([0] * 4, datasets.Value("int64")))},
            )
        )


@pytest.mark.parametrize(
    ("location", "message"),
    [
        (
            "nobody/nothing",
            "hf:nobody/nothing is no folder on this machine, and not in the cache, and .* cannot be reached",
        ),
        (
            "{path}/nothing",
            "nothing cannot be read .*: expected a data set of the Hub, such as hf:ylecun/mnist, or a folder",
        ),
        ("{path}", "doesn't contain any data files"),
        ("imagefolder", "imagefolder is a format"),
    ],
)
def test_a_data_set_that_cannot_be_loaded_is_reported_in_one_line(
    tmp_path: Path, location: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_dataset(f"hf:{location.format(path=tmp_path)}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_data_set_that_comes_as_a_program_is_refused_unrun(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hub.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="comes as a program, which is never run"):
        open_dataset(f"hf:{tmp_path / 'hub'}")
    assert not (tmp_path / "ran").exists()


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UserError, match=r"needs the library datasets, which is not installed: pip install 'convatlas\[hf\]'"
    ):
        open_dataset("hf:ylecun/mnist")
