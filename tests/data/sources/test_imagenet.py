"""ILSVRC 2012 in its published layouts and with its published lists of labels, from small trees of files."""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from convatlas.data import Dataset, open_dataset
from convatlas.data.sources import imagenet_labels
from convatlas.errors import UserError

GOLDFISH, CAT, BANANA = WNIDS = ("n01443537", "n02123045", "n07753592")
VAL_WNIDS = (BANANA, GOLDFISH, CAT, CAT, BANANA, GOLDFISH)  # of validation images 1 to 6
SYNSET_IDS = {BANANA: 1, GOLDFISH: 2, CAT: 5}  # the devkit numbers synsets in an order of its own
KAGGLE = "ILSVRC/Data/CLS-LOC"

SYNSET_LABELS = "imagenet_2012_validation_synset_labels.txt"
SOLUTION = "LOC_val_solution.csv"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
DEVKIT = "ILSVRC2012_devkit_t12/data"
BLACKLISTS = ("ILSVRC2014_clsloc_validation_blacklist.txt", "ILSVRC2015_clsloc_validation_blacklist.txt")


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08}.JPEG"


def write_file(file: Path, content: str | None = None) -> None:
    """Without content, an image file that no test decodes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"the image {file.name}" if content is None else content)


def write_lines(file: Path, lines: Sequence[object]) -> None:
    write_file(file, "".join(f"{line}\n" for line in lines))


def write_train(root: Path, layout: str = "") -> None:
    for wnid in WNIDS:
        for number in (7, 10026):
            write_file(root / layout / "train" / wnid / f"{wnid}_{number}.JPEG")


def write_flat_val(root: Path, layout: str = "") -> None:
    for number in range(1, len(VAL_WNIDS) + 1):
        write_file(root / layout / "val" / val_name(number))


def write_val_folders(root: Path, layout: str = "") -> None:
    for number, wnid in enumerate(VAL_WNIDS, 1):
        write_file(root / layout / "val" / wnid / val_name(number))


def write_synset_labels(folder: Path) -> None:
    write_lines(folder / SYNSET_LABELS, VAL_WNIDS)


def write_solution(folder: Path) -> None:
    """Kaggle's rows are in no order, and hold a class and four numbers for every box in the image."""
    rows = [f"ILSVRC2012_val_{n:08},{wnid} 1 2 30 40 {wnid} 5 6 7 8 " for n, wnid in enumerate(VAL_WNIDS, 1)]
    write_lines(folder / SOLUTION, ["ImageId,PredictionString", *rows[::2], *rows[1::2]])


def write_meta(folder: Path, synset_ids: dict[str, int]) -> None:
    """A column of structs with the fields of the devkit's meta.mat."""
    fields = [("ILSVRC2012_ID", float), ("WNID", object), ("words", object), ("num_train_images", float)]
    rows = [(number, wnid, "a word, another", 1300) for wnid, number in synset_ids.items()]
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "meta.mat", {"synsets": np.array(rows, fields)[:, None]})


def write_devkit(folder: Path) -> None:
    write_lines(folder / GROUND_TRUTH, [SYNSET_IDS[wnid] for wnid in VAL_WNIDS])
    write_meta(folder, SYNSET_IDS)


LABEL_WRITERS = {"synset labels": write_synset_labels, "Kaggle's CSV": write_solution, "devkit": write_devkit}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Train and flat validation images as their archives unpack, and no labels for the latter."""
    folder = tmp_path / "imagenet"
    write_train(folder)
    write_flat_val(folder)
    return folder


def opened(root: Path) -> Dataset:
    return open_dataset(f"imagenet:{root}")


def labels_by_file(dataset: Dataset, split_name: str) -> dict[str, str]:
    """The WNID of every image of a split by the name of its file."""
    split = dataset.splits[split_name]
    return {Path(split.images.name(i)).name: dataset.classes[label] for i, label in enumerate(split.labels)}


def assert_complete(dataset: Dataset) -> None:
    """The trees of this file have two training images a class, and VAL_WNIDS."""
    train = {f"{wnid}_{number}.JPEG": wnid for wnid in WNIDS for number in (7, 10026)}
    val = {val_name(number): wnid for number, wnid in enumerate(VAL_WNIDS, 1)}
    assert labels_by_file(dataset, "train") == train
    assert labels_by_file(dataset, "val") == val
    assert labels_by_file(dataset, "test") == val


# ---- layouts


@pytest.mark.parametrize("layout", ["", KAGGLE, "Data/CLS-LOC"])
def test_validation_images_in_folders_of_wnids_need_no_list(tmp_path: Path, layout: str) -> None:
    write_train(tmp_path, layout)
    write_val_folders(tmp_path, layout)
    dataset = opened(tmp_path)
    assert_complete(dataset)
    assert list(dataset.splits) == ["train", "val", "test"]
    assert (dataset.channels, dataset.size, dataset.root) == (3, None, tmp_path)
    assert any("val and test are both its validation images" in note for note in dataset.notes)


def test_kaggles_layout_takes_the_labels_of_its_csv(tmp_path: Path) -> None:
    write_train(tmp_path, KAGGLE)
    write_flat_val(tmp_path, KAGGLE)
    write_file(tmp_path / KAGGLE / "test" / "ILSVRC2012_test_00000001.JPEG")
    write_solution(tmp_path)
    assert_complete(opened(tmp_path))


@pytest.mark.parametrize("kind", LABEL_WRITERS)
def test_each_published_list_labels_the_flat_images(root: Path, kind: str) -> None:
    LABEL_WRITERS[kind](root)
    assert_complete(opened(root))


@pytest.mark.parametrize("kind", LABEL_WRITERS)
@pytest.mark.parametrize(
    "folder", [DEVKIT, "ILSVRC2014_devkit/data", "ILSVRC2015/devkit/data", "ILSVRC/devkit/data", "val"]
)
def test_lists_are_read_where_their_archives_put_them(root: Path, folder: str, kind: str) -> None:
    LABEL_WRITERS[kind](root / folder)
    assert_complete(opened(root))


def test_a_devkit_of_a_single_synset_is_read(tmp_path: Path) -> None:
    write_file(tmp_path / "train" / CAT / "1.JPEG")
    write_file(tmp_path / "val" / val_name(1))
    write_lines(tmp_path / GROUND_TRUTH, [1])
    write_meta(tmp_path, {CAT: 1})
    with pytest.raises(UserError, match="at least 2 classes of images; found 1"):
        opened(tmp_path)


@pytest.mark.parametrize("kind", LABEL_WRITERS)
def test_classes_are_wnids_in_their_order_whatever_the_list(root: Path, kind: str) -> None:
    LABEL_WRITERS[kind](root)
    assert opened(root).classes == WNIDS == tuple(sorted(WNIDS))


def test_flat_images_and_folders_give_the_same_labels_and_keys(tmp_path: Path) -> None:
    for name, write_val in (("flat", write_flat_val), ("folders", write_val_folders)):
        write_train(tmp_path / name)
        write_val(tmp_path / name)
        write_synset_labels(tmp_path / name)
    flat, folders = opened(tmp_path / "flat"), opened(tmp_path / "folders")
    for split_name in ("train", "val", "test"):
        assert labels_by_file(flat, split_name) == labels_by_file(folders, split_name)
        assert sorted(flat.splits[split_name].content_hashes) == sorted(
            folders.splits[split_name].content_hashes
        )


def test_images_are_read_from_their_files(root: Path) -> None:
    write_synset_labels(root)
    Image.new("RGB", (7, 5), (255, 0, 0)).save(root / "val" / val_name(3), "PNG")  # one of its JPEGs is a PNG
    val = opened(root).splits["val"]
    index = next(i for i in range(len(val)) if val.images.name(i).endswith(val_name(3)))
    pixels = val.images.image(index).decode(3, (0, 0))
    assert pixels.shape == (5, 7, 3)
    assert (pixels == (255, 0, 0)).all()


def test_hidden_folders_and_files_that_are_no_images_are_ignored(root: Path) -> None:
    write_synset_labels(root)
    for split_name in ("train", "val"):
        write_file(root / split_name / ".cache" / "1.JPEG")
    write_file(root / "train" / "readme.txt")
    write_file(root / "train" / "unsorted.JPEG")
    write_file(root / "train" / CAT / "boxes.xml")
    write_file(root / "train" / CAT / "._hidden.JPEG")
    (root / "train" / CAT / "folder.JPEG").mkdir()
    write_file(root / "val" / "readme.txt")
    assert_complete(opened(root))


def test_what_is_not_used_is_counted(root: Path) -> None:
    write_synset_labels(root)
    write_file(root / "train" / WNIDS[0] / "notes.txt")
    write_file(root / "train" / "flat.JPEG")
    write_file(root / "val" / ".DS_Store")
    assert opened(root).passed_over == "3 files: 1 .txt, 1 hidden, 1 not in the folder of a class"


def test_a_class_without_validation_images_is_named(root: Path) -> None:
    write_synset_labels(root)
    write_file(root / "train" / "n09999999" / "1.JPEG")
    assert "val has no images of n09999999" in opened(root).notes


def test_lists_may_end_lines_as_windows_does_and_with_blank_lines(root: Path) -> None:
    write_file(root / SYNSET_LABELS, "\r\n".join(VAL_WNIDS) + "\r\n\r\n\r\n")
    assert_complete(opened(root))


@pytest.mark.parametrize("file", [SYNSET_LABELS, SOLUTION, GROUND_TRUTH])
def test_lists_may_start_with_a_byte_order_mark(root: Path, file: str) -> None:
    {SYNSET_LABELS: write_synset_labels, SOLUTION: write_solution, GROUND_TRUTH: write_devkit}[file](root)
    write_file(root / file, "\ufeff" + (root / file).read_text())
    assert_complete(opened(root))


@pytest.mark.parametrize("inner", ["", "ILSVRC2015"])
def test_the_layout_of_2015_is_read_from_both_paths(tmp_path: Path, inner: str) -> None:
    folder = tmp_path / inner
    write_train(folder, "Data/CLS-LOC")
    write_flat_val(folder, "Data/CLS-LOC")
    write_devkit(folder / "devkit" / "data")
    write_lines(folder / "devkit" / "data" / BLACKLISTS[1], [2, 3])
    dataset = opened(tmp_path)
    assert_complete(dataset)
    assert len(dataset.splits["nonblacklisted"]) == 4


# ---- blacklist


@pytest.mark.parametrize("name", BLACKLISTS)
@pytest.mark.parametrize("write_val", [write_flat_val, write_val_folders])
def test_images_not_on_the_blacklist_are_a_split_of_their_own(
    tmp_path: Path, name: str, write_val: Callable[[Path], None]
) -> None:
    write_train(tmp_path)
    write_val(tmp_path)
    write_synset_labels(tmp_path)
    write_lines(tmp_path / DEVKIT / name, [5, 2, 3])
    dataset = opened(tmp_path)
    assert_complete(dataset)
    assert list(dataset.splits) == ["train", "val", "test", "nonblacklisted"]
    assert labels_by_file(dataset, "nonblacklisted") == {
        val_name(1): BANANA,
        val_name(4): CAT,
        val_name(6): GOLDFISH,
    }
    assert any(f"3 of 6 validation images that {name} does not name" in note for note in dataset.notes)


def test_without_a_blacklist_there_is_no_such_split(root: Path) -> None:
    write_synset_labels(root)
    dataset = opened(root)
    assert "nonblacklisted" not in dataset.splits
    assert not any("blacklist" in note for note in dataset.notes)


def test_a_blacklist_may_name_images_that_are_missing(tmp_path: Path) -> None:
    write_train(tmp_path)
    write_val_folders(tmp_path)
    write_lines(tmp_path / BLACKLISTS[0], [2, 50_000])
    assert len(opened(tmp_path).splits["nonblacklisted"]) == 5


# ---- errors: a change to a complete tree with synset labels, and the message with ROOT for the tree's folder


def replaced_list(file: str, lines: Sequence[object]) -> Callable[[Path], None]:
    """Instead of the synset labels, a list in the root with these lines."""

    def change(root: Path) -> None:
        (root / SYNSET_LABELS).unlink()
        write_lines(root / file, lines)

    return change


def devkit_with(synset_ids: dict[str, int], numbers: Sequence[object]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        replaced_list(GROUND_TRUTH, numbers)(root)
        write_meta(root, synset_ids)

    return change


def devkit_with_meta(content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """The devkit as published, but for the bytes of its meta.mat."""

    def change(root: Path) -> None:
        (root / SYNSET_LABELS).unlink()
        write_devkit(root)
        (root / "meta.mat").write_bytes(content((root / "meta.mat").read_bytes()))

    return change


def devkit_with_struct(fields: dict[str, object]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / SYNSET_LABELS).unlink()
        write_devkit(root)
        savemat(root / "meta.mat", fields)

    return change


def meta_rows(rows: Sequence[tuple[float, str]]) -> np.ndarray:
    return np.array(rows, [("ILSVRC2012_ID", object), ("WNID", object)])


def empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def meta_in_another_folder(root: Path) -> None:
    replaced_list(GROUND_TRUTH, NUMBERS)(root)
    write_meta(root / DEVKIT, SYNSET_IDS)


def train_in_another_layout(root: Path) -> None:
    (root / KAGGLE).mkdir(parents=True)
    (root / "train").rename(root / KAGGLE / "train")


def flat_train(root: Path) -> None:
    empty_folder(root / "train")
    write_file(root / "train" / f"{CAT}_7.JPEG")


def empty_wnid_folders(root: Path) -> None:
    for file in (root / "train").rglob("*.JPEG"):
        file.unlink()


def remove_images(*numbers: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for number in numbers:
            (root / "val" / val_name(number)).unlink()

    return change


def folders_and_blacklist(root: Path) -> None:
    empty_folder(root / "val")
    write_val_folders(root)
    write_lines(root / BLACKLISTS[1], [1, 50_001])


def folders_with_other_names_and_blacklist(root: Path) -> None:
    empty_folder(root / "val")
    for number, wnid in enumerate(VAL_WNIDS, 1):
        write_file(root / "val" / wnid / f"{number}.JPEG")
    write_lines(root / BLACKLISTS[0], [1, 2])


NO_LAYOUT = (
    "ROOT does not hold ILSVRC 2012: looked for {train,val}, ILSVRC/Data/CLS-LOC/{train,val}, "
    "ILSVRC2015/Data/CLS-LOC/{train,val}, Data/CLS-LOC/{train,val}, with a folder for every WNID in train"
)
NO_FOLDERS = "ROOT/train has no folders of images: expected one for every WNID, such as n01440764"
NOT_A_WNID = "expected folders named by WNIDs, such as n01440764; with other names use folder:PATH"
NOT_VAL_NAMES = "expected ILSVRC2012_val_00000001.JPEG and so on, or a folder for every WNID"
NO_LIST = (
    f"the images in ROOT/val lack their labels: expected one of {SYNSET_LABELS}, {SOLUTION}, {GROUND_TRUTH} "
    f"(with meta.mat); looked in ROOT and, in it, in {DEVKIT}, "
)
ROWS = [f"ILSVRC2012_val_{number:08},{wnid} 1 2 3 4" for number, wnid in enumerate(VAL_WNIDS, 1)]
NUMBERS = [SYNSET_IDS[wnid] for wnid in VAL_WNIDS]
NOT_META = "ROOT/meta.mat is not the devkit's list of synsets ("

ERRORS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (shutil.rmtree, "ROOT is not a folder: expected that of ILSVRC 2012"),
    "no train folder": (lambda root: shutil.rmtree(root / "train"), NO_LAYOUT),
    "no val folder": (lambda root: shutil.rmtree(root / "val"), NO_LAYOUT),
    "train and val in two layouts": (train_in_another_layout, NO_LAYOUT),
    "flat train": (flat_train, NO_FOLDERS),
    "train folders without images": (empty_wnid_folders, NO_FOLDERS),
    "a word as a train folder": (
        lambda root: (root / "train" / "tabby cat").mkdir(),
        f"ROOT/train holds tabby cat: {NOT_A_WNID}",
    ),
    "a word as a val folder": (
        lambda root: (root / "val" / "val").mkdir(),
        f"ROOT/val holds val: {NOT_A_WNID}",
    ),
    "a WNID of nine digits": (
        lambda root: (root / "val" / "n021230450").mkdir(),
        f"ROOT/val holds n021230450: {NOT_A_WNID}",
    ),
    "a folder name that a terminal obeys": (
        lambda root: (root / "train" / "n0212\x1b[2J").mkdir(),
        f"ROOT/train holds n0212\N{REPLACEMENT CHARACTER}[2J: {NOT_A_WNID}",
    ),
    "empty val": (lambda root: empty_folder(root / "val"), f"ROOT/val holds no images: {NOT_VAL_NAMES}"),
    "a flat image with another name": (
        lambda root: write_file(root / "val" / "cat.JPEG"),
        f"ROOT/val holds cat.JPEG: {NOT_VAL_NAMES}",
    ),
    "a flat training image in val": (
        lambda root: write_file(root / "val" / f"{CAT}_7.JPEG"),
        f"ROOT/val holds {CAT}_7.JPEG: {NOT_VAL_NAMES}",
    ),
    "a flat image with nine digits": (
        lambda root: write_file(root / "val" / "ILSVRC2012_val_000000011.JPEG"),
        f"ROOT/val holds ILSVRC2012_val_000000011.JPEG: {NOT_VAL_NAMES}",
    ),
    "no list of labels": (lambda root: (root / SYNSET_LABELS).unlink(), NO_LIST),
    "a list of labels in a wrong place": (
        lambda root: (root / SYNSET_LABELS).rename(root.parent / SYNSET_LABELS),
        NO_LIST,
    ),
    "synset labels: a word": (
        replaced_list(SYNSET_LABELS, [*VAL_WNIDS[:2], "tabby", *VAL_WNIDS[3:]]),
        f"ROOT/{SYNSET_LABELS}, line 3: 'tabby': expected a WNID such as n01440764",
    ),
    "synset labels: a blank line": (
        replaced_list(SYNSET_LABELS, [VAL_WNIDS[0], "", *VAL_WNIDS[1:]]),
        f"ROOT/{SYNSET_LABELS}, line 2: '': expected a WNID",
    ),
    "synset labels: a long line that a terminal obeys": (
        replaced_list(SYNSET_LABELS, ["\x1b" + 100 * "x"]),
        f"ROOT/{SYNSET_LABELS}, line 1: '\N{REPLACEMENT CHARACTER}{39 * 'x'}': expected a WNID",
    ),
    "synset labels: bytes that are not UTF-8": (
        lambda root: (root / SYNSET_LABELS).write_bytes(b"n01443537\nn0\xff\xfe\n"),
        f"ROOT/{SYNSET_LABELS}, line 2: 'n0{2 * chr(0xFFFD)}': expected a WNID",
    ),
    "synset labels: too few": (
        replaced_list(SYNSET_LABELS, VAL_WNIDS[:4]),
        f"ROOT/val holds 2 images, ILSVRC2012_val_00000005 first, which {SYNSET_LABELS} does not label "
        "(it has 6 images, and the list 4 labels)",
    ),
    "synset labels: none": (
        replaced_list(SYNSET_LABELS, []),
        f"ROOT/{SYNSET_LABELS} is empty, and so is not the published list: get it again",
    ),
    "an image with the number 0": (
        lambda root: write_file(root / "val" / val_name(0)),
        f"ROOT/val holds 1 images, ILSVRC2012_val_00000000 first, which {SYNSET_LABELS} does not label",
    ),
    "validation images lost": (
        remove_images(2, 6),
        f"ROOT/val lacks 2 images, ILSVRC2012_val_00000002 first, which {SYNSET_LABELS} labels: "
        "unpack it again (it has 4 images, and the list 6 labels)",
    ),
    "CSV: another image": (
        replaced_list(SOLUTION, ["ImageId,PredictionString", ROWS[0], f"cat,{CAT} 1 2 3 4", *ROWS[2:]]),
        f"ROOT/{SOLUTION}, line 3: 'cat': expected every ILSVRC2012_val_00000001 once",
    ),
    "CSV: an image twice": (
        replaced_list(SOLUTION, ["ImageId,PredictionString", *ROWS, ROWS[1]]),
        f"ROOT/{SOLUTION}, line 8: 'ILSVRC2012_val_00000002': expected every ILSVRC2012_val_00000001 once",
    ),
    "CSV: a word for a class": (
        replaced_list(
            SOLUTION, ["ImageId,PredictionString", *ROWS[:5], ROWS[5].replace(VAL_WNIDS[5], "tabby")]
        ),
        f"ROOT/{SOLUTION}, line 7: 'tabby': expected a WNID such as n01440764",
    ),
    "CSV: no class": (
        replaced_list(SOLUTION, ["ImageId,PredictionString", "ILSVRC2012_val_00000001"]),
        f"ROOT/{SOLUTION}, line 2: '': expected a WNID such as n01440764",
    ),
    "CSV: an image without a line": (
        replaced_list(SOLUTION, ["ImageId,PredictionString", *ROWS[:2], *ROWS[3:]]),
        f"ROOT/{SOLUTION} has no line for ILSVRC2012_val_00000003: get the file again",
    ),
    "CSV: no header": (
        replaced_list(SOLUTION, ROWS),
        f"ROOT/{SOLUTION} has no line for ILSVRC2012_val_00000001: get the file again",
    ),
    "CSV: nothing": (replaced_list(SOLUTION, ["", " "]), f"ROOT/{SOLUTION} is empty"),
    "CSV: a header alone": (
        replaced_list(SOLUTION, ["ImageId,PredictionString"]),
        f"which {SOLUTION} does not label (it has 6 images, and the list 0 labels)",
    ),
    "devkit: a word": (
        devkit_with(SYNSET_IDS, [*NUMBERS[:3], "cat", *NUMBERS[4:]]),
        f"ROOT/{GROUND_TRUTH}, line 4: 'cat': expected a whole number from 1 to 5",
    ),
    "devkit: 0": (
        devkit_with(SYNSET_IDS, [*NUMBERS[:5], 0]),
        f"ROOT/{GROUND_TRUTH}, line 6: '0': expected a whole number from 1 to 5",
    ),
    "devkit: digits of another script": (
        devkit_with(SYNSET_IDS, ["\N{ARABIC-INDIC DIGIT ONE}"]),
        f"ROOT/{GROUND_TRUTH}, line 1: '\N{ARABIC-INDIC DIGIT ONE}': expected a whole number from 1 to 5",
    ),
    "devkit: a number beyond its synsets": (
        devkit_with(SYNSET_IDS, [6, *NUMBERS[1:]]),
        f"ROOT/{GROUND_TRUTH}, line 1: '6': expected a whole number from 1 to 5",
    ),
    "devkit: a number that meta.mat does not have": (
        devkit_with(SYNSET_IDS, [*NUMBERS[:4], 3, *NUMBERS[5:]]),
        f"ROOT/meta.mat has no synset 3, which {GROUND_TRUTH} names: take both from one devkit",
    ),
    "devkit: no meta.mat": (
        replaced_list(GROUND_TRUTH, NUMBERS),
        f"ROOT/{GROUND_TRUTH} needs meta.mat beside it, which says what its numbers mean: both are in",
    ),
    "devkit: meta.mat elsewhere": (
        meta_in_another_folder,
        f"ROOT/{GROUND_TRUTH} needs meta.mat beside it",
    ),
    "devkit: meta.mat with a word for a WNID": (
        devkit_with({BANANA: 1, "tabby": 2}, [1]),
        "ROOT/meta.mat, row 2: 'tabby': expected a WNID such as n01440764",
    ),
    "devkit: empty meta.mat": (devkit_with_meta(lambda data: b""), NOT_META),
    "devkit: half a meta.mat": (devkit_with_meta(lambda data: data[: len(data) // 2]), NOT_META),
    "devkit: a page as meta.mat": (devkit_with_meta(lambda data: b"<!doctype html>\n" * 40), NOT_META),
    "devkit: zeros after the header of meta.mat": (
        devkit_with_meta(lambda data: data[:128] + bytes(len(data) - 128)),
        NOT_META,
    ),
    "devkit: meta.mat of other things": (devkit_with_struct({"words": np.arange(3)}), NOT_META),
    "devkit: meta.mat with plain numbers": (devkit_with_struct({"synsets": np.arange(3.0)}), NOT_META),
    "devkit: meta.mat with text for a number": (
        devkit_with_struct({"synsets": {"ILSVRC2012_ID": "first", "WNID": CAT}}),
        NOT_META,
    ),
    "devkit: a synset without a whole number": (
        devkit_with_struct({"synsets": {"ILSVRC2012_ID": 0.5, "WNID": CAT}}),
        f"{NOT_META}row 1 has the number 0.5): get it again",
    ),
    "devkit: two synsets with one number": (
        devkit_with_struct({"synsets": meta_rows([(1.0, CAT), (1.0, BANANA)])}),
        f"{NOT_META}row 2 has the number 1.0): get it again",
    ),
    "devkit: meta.mat without synsets": (
        devkit_with_struct({"synsets": meta_rows([])}),
        f"{NOT_META}it is empty): get it again",
    ),
    "devkit: no numbers": (
        devkit_with(SYNSET_IDS, []),
        f"ROOT/{GROUND_TRUTH} is empty, and so is not the published list: get it again",
    ),
    "two flat images with one number": (
        lambda root: write_file(root / "val" / "ILSVRC2012_val_00000003 (1).JPEG"),
        "ROOT/val holds ILSVRC2012_val_00000003 (1).JPEG and ILSVRC2012_val_00000003.JPEG, which have one "
        "number: keep one of them",
    ),
    "flat images beside folders": (
        lambda root: write_file(root / "val" / CAT / val_name(7)),
        "ROOT/val holds 6 images beside its folders of WNIDs, ILSVRC2012_val_00000001.JPEG first: move each "
        "into the folder of its class",
    ),
    "blacklist: nothing": (
        lambda root: write_lines(root / BLACKLISTS[0], []),
        f"ROOT/{BLACKLISTS[0]} is empty",
    ),
    "blacklist: images with other names": (
        folders_with_other_names_and_blacklist,
        f"ROOT/val/{GOLDFISH}/2.JPEG cannot be looked up in {BLACKLISTS[0]}: expected the published names",
    ),
    "blacklist: a name": (
        lambda root: write_lines(root / BLACKLISTS[0], [1, val_name(2)]),
        f"ROOT/{BLACKLISTS[0]}, line 2: '{val_name(2)}': expected a whole number from 1 to 6",
    ),
    "blacklist: beyond the flat images": (
        lambda root: write_lines(root / DEVKIT / BLACKLISTS[0], [7]),
        f"ROOT/{DEVKIT}/{BLACKLISTS[0]}, line 1: '7': expected a whole number from 1 to 6",
    ),
    "blacklist: beyond the published images": (
        folders_and_blacklist,
        f"ROOT/{BLACKLISTS[1]}, line 2: '50001': expected a whole number from 1 to 50,000",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_files_that_cannot_be_used_are_named_in_one_line(root: Path, kind: str) -> None:
    change, message = ERRORS[kind]
    write_synset_labels(root)
    change(root)
    with pytest.raises(UserError) as error:
        opened(root)
    assert message.replace("ROOT", str(root)) in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("file", [SYNSET_LABELS, SOLUTION, GROUND_TRUTH, "meta.mat", BLACKLISTS[0]])
def test_a_list_that_is_too_large_is_not_read(root: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writers = {SOLUTION: write_solution, GROUND_TRUTH: write_devkit, "meta.mat": write_devkit}
    writers.get(file, write_synset_labels)(root)
    if file == BLACKLISTS[0]:
        write_lines(root / file, [1])
    limit = 10_000
    os.truncate(root / file, limit + 1)
    monkeypatch.setattr(imagenet_labels, "MAX_BYTES", limit)
    message = re.escape(f"{root / file} is larger than 10,000 bytes, and so is not the published list")
    with pytest.raises(UserError, match=message):
        opened(root)


def test_a_meta_mat_with_a_changed_byte_does_not_end_the_process(root: Path) -> None:
    """scipy 1.17 reads beyond its memory for this byte."""
    write_devkit(root)
    data = bytearray((root / "meta.mat").read_bytes())
    data[656] = 242  # of a tag's type
    (root / "meta.mat").write_bytes(data)
    with pytest.raises(UserError, match="is not the devkit's list of synsets"):
        opened(root)


def test_a_meta_mat_that_is_cut_anywhere_is_refused(root: Path) -> None:
    write_devkit(root)
    data = (root / "meta.mat").read_bytes()
    for length in range(0, len(data), 37):
        (root / "meta.mat").write_bytes(data[:length])
        with pytest.raises(UserError, match="is not the devkit's list of synsets") as error:
            opened(root)
        assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["imagenet:", "imagenet"])
def test_the_source_needs_a_path(name: str) -> None:
    with pytest.raises(UserError, match="imagenet:PATH"):
        open_dataset(name)
