"""A folder of images and their masks: what is read of it, and what is refused by name."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convatlas.data import Dataset, open_dataset, open_evaluation_dataset, open_source
from convatlas.data.curation.check import check
from convatlas.data.curation.contact_sheet import draw_contact_sheet
from convatlas.data.curation.pack import pack
from convatlas.data.images.mask import MaskFile
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.mask import IGNORE
from convatlas.errors import UsageError, UserError

SIZE = (6, 8)  # height, width


def write_sample(
    folder: Path, name: str, ids: NDArray[np.uint8] | NDArray[np.uint16], kind: str = "masks", seed: int = 0
) -> None:
    """An image of noise, of the size of its mask."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / kind).mkdir(exist_ok=True)
    noise = np.random.default_rng([seed, *name.encode()]).integers(0, 256, (*ids.shape[:2], 3), np.uint8)
    Image.fromarray(noise).save(folder / "images" / f"{name}.png")
    Image.fromarray(ids).save(folder / kind / f"{name}.png")


def ids(*values: int, dtype: type = np.uint8) -> NDArray[np.uint8]:
    """A mask whose rows have these ids in turn."""
    rows: NDArray[np.uint8] = np.resize(np.array(values), SIZE[0]).astype(dtype)
    return np.repeat(rows[:, None], SIZE[1], axis=1)


def make_splits(root: Path, *values: int, count: int = 4) -> Path:
    for split in ("train", "val", "test"):
        for number in range(count):
            write_sample(root / split, f"{split}{number}", np.roll(ids(*values), number, axis=0))
    return root


def open_folder(root: Path) -> Dataset:
    return open_dataset(f"folder:{root}", conflicts="stop")


def test_masks_of_ids_are_the_targets(tmp_path: Path) -> None:
    (make_splits(tmp_path, 0, 2, 1, IGNORE) / "classes.txt").write_text("ground\ncat\ndog\n")
    dataset = open_folder(tmp_path)
    assert (dataset.task, dataset.classes) == ("segmentation", ("ground", "cat", "dog"))
    train = dataset.splits["train"]
    assert train.masks is not None
    expected = np.array(Image.open(tmp_path / "train/masks/train1.png"))
    assert (train.masks.mask(1).classes == expected).all()
    assert train.masks.pixel_counts[1].tolist() == [int((expected == id).sum()) for id in range(3)]


def test_without_a_file_of_names_the_classes_are_numbered(tmp_path: Path) -> None:
    assert open_folder(make_splits(tmp_path, 0, 3)).classes == ("0", "1", "2", "3")


def test_a_folder_without_splits_is_split_by_content(tmp_path: Path) -> None:
    for number in range(20):
        write_sample(tmp_path, f"{number}", ids(0, 1 + number % 2))
    dataset = open_folder(tmp_path)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 16, "val": 2, "test": 2}


def test_ids_may_be_any_numbers_that_a_file_names(tmp_path: Path) -> None:
    (make_splits(tmp_path, 0, 255) / "classes.json").write_text('{"0": "ground", "255": "cell"}')
    masks = open_folder(tmp_path).splits["train"].masks
    assert masks is not None
    assert set(np.unique(masks.mask(0).classes)) == {0, 1}


def test_masks_of_0_and_255_alone_are_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no ids but 0 and 255.*classes\.json"):
        open_folder(make_splits(tmp_path, 0, 255))


def test_palette_indices_are_ids(tmp_path: Path) -> None:
    make_splits(tmp_path, 0, 1)
    for file in tmp_path.glob("*/masks/*.png"):
        image = Image.frombytes("P", SIZE[::-1], ids(2, 0).tobytes())
        image.putpalette([9, 9, 9, 250, 0, 0, 0, 250, 0])
        image.save(file)
    masks = open_folder(tmp_path).splits["train"].masks
    assert masks is not None
    assert (masks.mask(0).classes == ids(2, 0)).all()


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_gray_of_every_depth_gives_the_stored_numbers(tmp_path: Path, depth: int) -> None:
    values = [i % (1 << depth) for i in (0, 1, 2, 3, 7, 300)]
    bits = "".join(format(value, f"0{depth}b") for value in values)
    row = b"\0" + int(bits + "0" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8, "big")
    header = struct.pack(">IIBBBBB", len(values), 1, depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert MaskFile(tmp_path / "mask.png").ids().tolist() == [values]


def test_colors_are_mapped_by_a_file(tmp_path: Path) -> None:
    colors = np.array([[0, 0, 0], [255, 0, 0]], np.uint8)
    make_splits(tmp_path, 0, 1)
    for file in tmp_path.glob("*/masks/*.png"):
        Image.fromarray(colors[np.array(Image.open(file))]).save(file)
    with pytest.raises(UserError, match=r"have colours: name the class of each in .*classes\.json"):
        open_folder(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps({"ground": [0, 0, 0], "cell": [255, 0, 0]}))
    masks = open_folder(tmp_path).splits["train"].masks
    assert masks is not None
    assert (masks.mask(0).classes == ids(0, 1)).all()


def test_instances_of_16_bits_stand_beside_the_classes_or_alone(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_sample(tmp_path / split, split, ids(0, 300, 7, dtype=np.uint16), "instances")
    dataset = open_folder(tmp_path)
    masks = dataset.splits["train"].masks
    assert masks is not None
    mask = masks.mask(0)
    assert dataset.classes == ("background", "object")
    assert mask.instances is not None
    assert (mask.instances == ids(0, 300, 7, dtype=np.uint16)).all()
    assert (mask.classes == ids(0, 1, 1)).all()
    write_sample(tmp_path / "train", "train", ids(0, 1, 2))
    with pytest.raises(UserError, match=r"2 of 3 masks.*test\.png has no mask"):
        open_folder(tmp_path)


def damage_size(root: Path) -> str:
    Image.fromarray(ids(0, 1)[:4]).save(root / "train/masks/train1.png")
    return r"train1\.png: 8x4 pixels, its image 8x6"


def damage_id(root: Path) -> str:
    (root / "classes.txt").write_text("ground\ncat\n")
    Image.fromarray(ids(0, 7)).save(root / "train/masks/train1.png")
    return r"train1\.png: the id 7 is none of the classes'"


def damage_missing(root: Path) -> str:
    (root / "train/masks/train1.png").unlink()
    return r"train1\.png has no mask"


def damage_empty(root: Path) -> str:
    (root / "train/masks/train1.png").write_bytes(b"")
    return r"train1\.png: no PNG"


def damage_jpeg(root: Path) -> str:
    Image.fromarray(ids(0, 1)).save(root / "train/masks/train1.png", format="JPEG")
    return r"train1\.png: a JPEG, whose compression changes ids"


def damage_cut(root: Path) -> str:
    file = root / "train/masks/train1.png"
    file.write_bytes(file.read_bytes()[:-30])
    return r"train1\.png: not a readable"


def damage_rotation(root: Path) -> str:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.zeros((*SIZE, 3), np.uint8))
    image.save(root / "train/images/train1.png", exif=exif)
    return r"train1\.png: 8x6 pixels, its image 6x8 once it is turned as its EXIF orientation says"


@pytest.mark.parametrize(
    "damage",
    [damage_size, damage_id, damage_missing, damage_empty, damage_jpeg, damage_cut, damage_rotation],
    ids=lambda damage: damage.__name__,
)
def test_a_mask_that_cannot_be_used_stops_a_training_or_is_left_out(tmp_path: Path, damage: object) -> None:
    make_splits(tmp_path, 0, 1)
    assert callable(damage)
    message = damage(tmp_path)
    with pytest.raises(UserError, match=f"1 of 12 masks.*{message}.*data.conflicts=drop"):
        open_folder(tmp_path)
    dataset = open_dataset(f"folder:{tmp_path}", conflicts="drop")
    assert len(dataset.splits["train"]) == 3
    assert any("1 of 12 masks" in note for note in dataset.notes)
    assert len(open_evaluation_dataset(f"folder:{tmp_path}").splits["train"]) == 3


def test_a_mask_without_an_image_is_listed(tmp_path: Path) -> None:
    (make_splits(tmp_path, 0, 1) / "train/images/train1.png").unlink()
    assert "a mask without an image" in open_folder(tmp_path).passed_over


def test_two_images_of_one_mask_are_refused(tmp_path: Path) -> None:
    image = Image.open(make_splits(tmp_path, 0, 1) / "train/images/train1.png")
    image.save(tmp_path / "train/images/train1.bmp")
    with pytest.raises(UserError, match="would have the same mask"):
        open_folder(tmp_path)


def test_one_image_with_two_masks_is_a_conflict(tmp_path: Path) -> None:
    make_splits(tmp_path, 0, 1)
    data = (tmp_path / "train/images/train1.png").read_bytes()
    (tmp_path / "train/images/train2.png").write_bytes(data)
    Image.fromarray(ids(1, 1, 0)).save(tmp_path / "train/masks/train2.png")
    with pytest.raises(UserError, match="same content under different masks"):
        open_folder(tmp_path)


def test_the_hash_of_the_data_covers_the_masks(tmp_path: Path) -> None:
    before = open_folder(make_splits(tmp_path, 0, 1)).sha256
    mask = ids(0, 1)
    mask[0, 0] = 1
    Image.fromarray(mask).save(tmp_path / "train/masks/train0.png")
    assert open_folder(tmp_path).sha256 != before


def test_a_mask_that_changes_after_opening_is_never_a_silent_target(tmp_path: Path) -> None:
    masks = open_folder(make_splits(tmp_path, 0, 1)).splits["train"].masks
    assert masks is not None
    Image.fromarray(ids(0, 9)).save(tmp_path / "train/masks/train0.png")
    with pytest.raises(UnreadableImage, match="the id 9 is none of the classes'"):
        masks.mask(0)


@pytest.mark.parametrize("named", [True, False])
def test_a_mask_that_was_resized_with_interpolation_is_said_so(tmp_path: Path, named: bool) -> None:
    large = np.zeros((60, 80), np.uint8)
    large[10:40, 20:60] = 9
    for split in ("train", "val", "test"):
        write_sample(tmp_path / split, f"{split}0", large)
        write_sample(tmp_path / split, f"{split}1", large.T.copy())
    smooth = Image.fromarray(large).resize((40, 30), Image.Resampling.BILINEAR).resize((80, 60))
    smooth.save(tmp_path / "train/masks/train0.png")
    if named:
        (tmp_path / "classes.json").write_text('{"0": "ground", "9": "cell"}')
    report = check(open_source(f"folder:{tmp_path}"))
    texts = [entry.note for entry in (report.bad_masks if named else report.notes)]
    assert len(texts) == 1
    assert "train0.png" in texts[0]
    assert "was the mask resized with interpolation?" in texts[0]


def test_a_check_counts_the_images_that_show_a_class_and_lists_unusable_masks(tmp_path: Path) -> None:
    (make_splits(tmp_path, 0, 2, 1) / "classes.txt").write_text("ground\ncat\ndog\nfish\n")
    (tmp_path / "val/masks/val1.png").unlink()
    report = check(open_source(f"folder:{tmp_path}"))
    assert not report.ok
    assert [entry.note for entry in report.bad_masks] == [f"{tmp_path}/val/images/val1.png has no mask"]
    assert not report.bad
    assert report.classes["cat"] == {"train": 4, "val": 3, "test": 4}
    assert report.classes["fish"] == {"train": 0, "val": 0, "test": 0}


def test_what_takes_labels_alone_refuses_masks(tmp_path: Path) -> None:
    make_splits(tmp_path / "data", 0, 1)
    with pytest.raises(UsageError, match="has masks, which a packed store does not hold"):
        pack(open_folder(tmp_path / "data"), tmp_path / "packed")


def test_the_contact_sheet_draws_the_masks_over_the_images(tmp_path: Path) -> None:
    dataset = open_folder(make_splits(tmp_path, 0, 1))
    sheet = np.asarray(Image.open(io.BytesIO(draw_contact_sheet(dataset))).convert("RGB"), int)
    colored = (sheet.max(axis=2) - sheet.min(axis=2)) > 40
    assert colored.sum() > 100  # the images are grey below their masks
