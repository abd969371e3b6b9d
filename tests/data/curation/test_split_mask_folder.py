"""`data split` of images with masks: a folder that splits them, and that a training follows exactly."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convatlas.cli.main import main
from convatlas.data import Dataset, open_dataset, open_source
from convatlas.data.mask import Mask
from convatlas.data.sources.quarantine import Quarantine, QuarantinedFile

SIZE = (6, 8)
RNG = np.random.default_rng(0)


def write_sample(folder: Path, name: str, image: NDArray[np.uint8] | None = None) -> None:
    """An image with a mask of classes 0 to 2 and with instances."""
    instances = RNG.integers(0, 400, SIZE, np.uint16)
    if image is None:
        image = RNG.integers(0, 256, (*SIZE, 3), np.uint8)
    arrays = {"images": image, "masks": (instances % 3).astype(np.uint8), "instances": instances}
    for kind, array in arrays.items():
        file = folder / kind / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(file)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    for number in range(40):
        write_sample(tmp_path / "cells", f"{number}")
    return tmp_path / "cells"


def split(*arguments: str | Path) -> int:
    return main(["data", "split", *map(str, arguments)])


def contents(dataset: Dataset) -> dict[str, set[bytes]]:
    return {name: {bytes(digest) for digest in part.content_hashes} for name, part in dataset.splits.items()}


def masks_by_image(dataset: Dataset) -> dict[bytes, Mask]:
    masks: dict[bytes, Mask] = {}
    for part in dataset.splits.values():
        assert part.masks is not None
        masks |= {bytes(digest): part.masks.mask(i) for i, digest in enumerate(part.content_hashes)}
    return masks


def test_the_folder_holds_the_split_of_a_training_with_masks_and_instances(
    cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert split(f"folder:{cells}") == 0
    printed = capsys.readouterr().out
    assert "32 train, 4 val, 4 test" in printed
    assert f"next: convatlas train MODEL --data folder:{cells}/split" in printed
    before, after = open_dataset(f"folder:{cells}"), open_dataset(f"folder:{cells}/split")
    assert contents(after) == contents(before)
    assert after.classes == before.classes == ("0", "1", "2")
    masks = masks_by_image(before)
    for digest, mask in masks_by_image(after).items():
        assert (mask.classes == masks[digest].classes).all()
        instances, expected = mask.instances, masks[digest].instances
        assert instances is not None
        assert expected is not None
        assert (instances == expected).all()


def test_fractions_and_a_seed_decide_the_split(cells: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        options = ("--val", "0.2", "--test", "0.3", "--seed", seed, "--out", cells / name)
        assert split(f"folder:{cells}", *options) == 0
    a, b, c = (contents(open_dataset(f"folder:{cells / name}")) for name in "abc")
    assert {name: len(part) for name, part in a.items()} == {
        "train": pytest.approx(20, abs=1),
        "val": pytest.approx(8, abs=1),
        "test": pytest.approx(12, abs=1),
    }
    assert a == b
    assert a != c


def test_equal_images_are_never_on_two_sides(cells: Path) -> None:
    data = (cells / "images/0.png").read_bytes(), (cells / "masks/0.png").read_bytes()
    for number in range(8):
        for kind, content in zip(("images", "masks"), data, strict=True):
            (cells / kind / f"copy{number}.png").write_bytes(content)
        (cells / "instances" / f"copy{number}.png").write_bytes((cells / "instances/0.png").read_bytes())
    assert split(f"folder:{cells}", "--val", "0.3", "--test", "0.3") == 0
    copies = [*(cells / "split").glob("*/images/copy*.png")]
    assert len(copies) == 8
    assert len({file.parts[-3] for file in (*copies, *(cells / "split").glob("*/images/0.png"))}) == 1


def test_images_that_look_alike_stay_in_one_split_on_request(cells: Path) -> None:
    pixels = RNG.integers(0, 256, SIZE, np.uint8)[:, :, None].repeat(3, axis=2)
    for number in range(12):
        pixels[0, 0] = number
        write_sample(cells, f"alike{number}", pixels)
    assert split(f"folder:{cells}", "--val", "0.3", "--test", "0.3", "--out", cells / "apart") == 0
    assert len({file.parts[-3] for file in (cells / "apart").glob("*/images/alike*.png")}) == 3
    options = ("--val", "0.3", "--test", "0.3", "--out", cells / "together", "--group-near-duplicates")
    assert split(f"folder:{cells}", *options) == 0
    assert len({file.parts[-3] for file in (cells / "together").glob("*/images/alike*.png")}) == 1


def test_splits_of_the_source_are_merged_though_their_files_have_equal_names(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for number in range(15):
            write_sample(tmp_path / part, f"slide/{number}")
    assert split(f"folder:{tmp_path}", "--out", tmp_path / "new") == 0
    dataset = open_dataset(f"folder:{tmp_path / 'new'}")
    assert {name: len(part) for name, part in dataset.splits.items()} == {"train": 24, "val": 3, "test": 3}
    assert {file.parts[-3] for file in (tmp_path / "new/train/masks").rglob("*.png")} == {"train", "test"}
    assert set().union(*contents(dataset).values()) == set(
        map(bytes, open_source(f"folder:{tmp_path}").content_hashes)
    )


@pytest.mark.parametrize(
    ("document", "ids"),
    [
        ({"0": "ground", "7": "cell", "255": "edge"}, [0, 7, 255]),
        ({"ground": [0, 0, 0], "cell": [255, 0, 9]}, [[0, 0, 0], [255, 0, 9]]),
    ],
    ids=["ids", "colours"],
)
def test_the_folder_names_the_classes_as_the_data_do(
    tmp_path: Path, document: dict[str, object], ids: list[object]
) -> None:
    for number in range(12):
        write_sample(tmp_path, f"{number}")
        picture = np.array(ids, np.uint8)[RNG.integers(0, len(ids), SIZE)]
        Image.fromarray(picture).save(tmp_path / f"masks/{number}.png")
    (tmp_path / "classes.json").write_text(json.dumps(document))
    assert split(f"folder:{tmp_path}") == 0
    before, after = open_dataset(f"folder:{tmp_path}"), open_dataset(f"folder:{tmp_path}/split")
    assert after.classes == before.classes
    masks = masks_by_image(before)
    assert all((mask.classes == masks[key].classes).all() for key, mask in masks_by_image(after).items())


def test_files_are_copied_where_they_cannot_be_linked(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    assert split(f"folder:{cells}", "--out", cells / "linked") == 0
    monkeypatch.setattr("convatlas.data.curation.split_mask_folder.os.link", refuse)
    assert split(f"folder:{cells}", "--out", cells / "copied") == 0
    linked, copied = (
        {file.relative_to(cells / name): file for file in (cells / name).rglob("*.png")}
        for name in ("linked", "copied")
    )
    assert linked.keys() == copied.keys()
    assert all(linked[name].read_bytes() == file.read_bytes() for name, file in copied.items())
    assert {file.stat().st_nlink for file in linked.values()} == {2}
    assert {file.stat().st_nlink for file in copied.values()} == {1}


def test_broken_images_and_masks_are_left_out(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cells / "masks/7.png").write_bytes(b"")
    digest = bytes(open_source(f"folder:{cells}").content_hashes[0]).hex()
    Quarantine(cells).add([QuarantinedFile(file="x", reason="broken", content=digest)])
    assert split(f"folder:{cells}", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (sum(document["counts"].values()), document["left_out"]) == (38, 1)
    (note,) = (note for note in document["notes"] if "mask" in note)
    assert "1 images without a usable mask are left out, the first: " in note
    assert "masks/7.png: no PNG" in note
    assert not [*(cells / "split").rglob("7.png")]


def damage_masks(cells: Path) -> None:
    (cells / "images/1.png").write_bytes((cells / "images/0.png").read_bytes())


def occupy_place(cells: Path) -> None:
    (cells / "split").mkdir()


def keep_two(cells: Path) -> None:
    for file in cells.glob("*/*.png"):
        if file.stem not in ("0", "1"):
            file.unlink()


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (damage_masks, 1, "files with the same content under different masks"),
        (occupy_place, 2, "split already exists"),
        (keep_two, 1, "val has no images: there are too few images, so add some or change --val"),
    ],
)
def test_an_impossible_split_is_one_error_line_and_writes_nothing(
    cells: Path, damage: object, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(damage)
    damage(cells)
    before = sorted(cells.rglob("*"))
    assert split(f"folder:{cells}") == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(cells.rglob("*")) == before
