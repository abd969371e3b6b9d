"""Lists of images, as CSV and as JSON lines: what they may hold, and every error by its line."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convatlas.data import Dataset, open_dataset
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.errors import UserError

RNG = np.random.default_rng(0)
ROWS = [(f"{label}/{i}.png", label) for label in ("cat", "dog") for i in range(10)]


def write_image(file: Path, gray: bool = False) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, size=(4, 5) if gray else (4, 5, 3), dtype=np.uint8)).save(file)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with the files of ROWS."""
    for name, _ in ROWS:
        write_image(tmp_path / name)
    return tmp_path


def csv_text(rows: Sequence[Sequence[object]], header: str = "file,label") -> str:
    return "".join(f"{line}\n" for line in [header, *(",".join(map(str, row)) for row in rows)])


def json_text(rows: Sequence[Sequence[object]], columns: Sequence[str] = ("file", "label")) -> str:
    return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)


def opened(file: Path, content: str | bytes) -> Dataset:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_dataset(f"manifest:{file}")


def members(dataset: Dataset) -> dict[str, dict[str, str]]:
    """The class of every file of every split, by the last two parts of its path."""
    return {
        split_name: {
            "/".join(Path(split.images.name(i)).parts[-2:]): dataset.classes[label]
            for i, label in enumerate(split.labels)
        }
        for split_name, split in dataset.splits.items()
    }


def all_members(dataset: Dataset) -> dict[str, str]:
    return {name: label for split in members(dataset).values() for name, label in split.items()}


def counts(dataset: Dataset) -> dict[str, int]:
    return {split_name: len(split) for split_name, split in dataset.splits.items()}


# ---- what a list may hold


@pytest.mark.parametrize(
    "name", ["list.csv", "list.txt", "list", "list.jsonl", "list.ndjson", "list.json", "LIST.JSONL"]
)
def test_a_list_gives_what_the_folder_of_its_files_gives(photos: Path, name: str) -> None:
    text = json_text(ROWS) if "json" in name.lower() else csv_text(ROWS)
    listed, folder = opened(photos / name, text), open_dataset(f"folder:{photos}")
    assert members(listed) == members(folder)
    assert (listed.classes, listed.channels) == (folder.classes, folder.channels)
    assert listed.sha256 == folder.sha256
    assert listed.root == photos


@pytest.mark.parametrize(
    "content",
    [
        csv_text([(label, 7, name) for name, label in ROWS], "label,size,file"),
        csv_text([(name, label, "x", "y") for name, label in ROWS], "file,label,note,note"),
        csv_text([(f" {name}", f" {label} ") for name, label in ROWS], " file , label "),
        csv_text([(f'"{name}"', f'"{label}"') for name, label in ROWS], '"file","label"'),
        csv_text(ROWS).replace("\n", "\n\n"),
        csv_text(ROWS).replace("\n", "\r\n"),
        csv_text(ROWS).rstrip(),
        b"\xef\xbb\xbf" + csv_text(ROWS).encode(),
        csv_text([(f"./{name}".replace("/", "//"), label) for name, label in ROWS]),
        csv_text([*ROWS, *ROWS]),
    ],
    ids=[
        "order",
        "more columns",
        "spaces",
        "quotes",
        "blank lines",
        "Windows",
        "no end",
        "BOM",
        "dots",
        "twice",
    ],
)
def test_csv_is_read_as_programs_write_it(photos: Path, content: str | bytes) -> None:
    dataset = opened(photos / "list.csv", content)
    assert all_members(dataset) == dict(ROWS)
    assert counts(dataset) == {"train": 16, "val": 2, "test": 2}


@pytest.mark.parametrize(
    "content",
    [
        json_text([(label, [7, {"a": None}], name) for name, label in ROWS], ("label", "boxes", "file")),
        json_text(ROWS).replace("\n", "\r\n\r\n  \r\n"),
        json_text(ROWS).rstrip(),
        b"\xef\xbb\xbf" + json_text(ROWS).encode(),
        json_text([(name, label, None, None) for name, label in ROWS], ("file", "label", "split", "group")),
        json_text([(name, label, "", "") for name, label in ROWS], ("file", "label", "split", "group")),
    ],
    ids=["more fields", "blank lines", "no end", "BOM", "null", "empty text"],
)
def test_json_lines_are_read_as_programs_write_them(photos: Path, content: str | bytes) -> None:
    dataset = opened(photos / "list.jsonl", content)
    assert all_members(dataset) == dict(ROWS)
    assert counts(dataset) == {"train": 16, "val": 2, "test": 2}


def test_names_and_labels_may_hold_commas_quotes_and_other_scripts(photos: Path) -> None:
    names = {"cat, asleep": 'cat "Мурка", asleep', "ねこ": "ねこ"}
    rows = []
    for folder, label in names.items():
        for i in range(10):
            write_image(photos / folder / f"{i}.png")
            rows.append((f"{folder}/{i}.png", label))
    quoted = [[f'"{cell}"' for cell in (name, label.replace('"', '""'))] for name, label in rows]
    for dataset in (
        opened(photos / "list.csv", csv_text(quoted)),
        opened(photos / "list.jsonl", json_text(rows)),
    ):
        assert all_members(dataset) == dict(rows)


def test_whole_numbers_as_labels_are_classes_in_their_order(photos: Path) -> None:
    numbers = [(name, 10 if label == "cat" else 9) for name, label in ROWS]
    mixed = [(name, label if i % 2 else str(label)) for i, (name, label) in enumerate(numbers)]
    dataset = opened(photos / "list.jsonl", json_text(mixed))
    assert dataset.classes == ("9", "10")
    assert dataset.sha256 == opened(photos / "list.csv", csv_text(numbers)).sha256


def test_a_line_of_the_longest_length_is_read(photos: Path) -> None:
    lines = json_text(ROWS).splitlines()
    lines[3] = lines[3].ljust((64 << 10) - 1)  # and the newline
    assert all_members(opened(photos / "list.jsonl", "\n".join(lines))) == dict(ROWS)


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("training", "valid", "testing"), ("Train", "validation", "TEST")]
)
def test_splits_are_understood_under_their_usual_names(photos: Path, names: tuple[str, str, str]) -> None:
    rows = [(name, label, names[i % 10 // 4]) for i, (name, label) in enumerate(ROWS)]
    for dataset in (
        opened(photos / "list.csv", csv_text(rows, "file,label,split")),
        opened(photos / "list.jsonl", json_text(rows, ("file", "label", "split"))),
    ):
        assert counts(dataset) == {"train": 8, "val": 8, "test": 4}
        for name, _, split in rows:
            split_name = ("train", "val", "test")[names.index(split)]
            assert name in members(dataset)[split_name]


def test_a_list_without_a_val_split_holds_some_of_train_out(photos: Path) -> None:
    rows = [(name, label, "test" if i % 10 == 0 else "train") for i, (name, label) in enumerate(ROWS)]
    dataset = opened(photos / "list.csv", csv_text(rows, "file,label,split"))
    assert counts(dataset) == {"train": 16, "val": 2, "test": 2}
    assert set(members(dataset)["test"]) == {"cat/0.png", "dog/0.png"}


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_a_split_that_is_made_never_separates_a_group(photos: Path, name: str) -> None:
    rows = [(file, label, "" if i % 10 == 9 else i // 2 % 5) for i, (file, label) in enumerate(ROWS)]
    columns = ("file", "label", "group")
    text = json_text(rows, columns) if name.endswith("jsonl") else csv_text(rows, ",".join(columns))
    dataset = opened(photos / name, text)
    assert all_members(dataset) == dict(ROWS)
    splits_by_group: dict[object, set[str]] = {}
    for file, _, group in rows:
        if group != "":
            splits_by_group.setdefault(group, set()).update(
                split_name for split_name, files in members(dataset).items() if file in files
            )
    assert set(splits_by_group) == {0, 1, 2, 3, 4}
    assert all(len(splits) == 1 for splits in splits_by_group.values())
    assert any("were split off by group" in note for note in dataset.notes)


@pytest.mark.parametrize("group", [0, "0", "scene 7"])
def test_files_without_a_group_are_each_their_own(photos: Path, group: int | str) -> None:
    rows = [(file, label, group if i % 10 < 8 else "") for i, (file, label) in enumerate(ROWS)]
    dataset = opened(photos / "list.jsonl", json_text(rows, ("file", "label", "group")))
    assert counts(dataset) == {"train": 16, "val": 2, "test": 2}
    assert members(dataset)["train"] == {file: label for file, label, group in rows if group != ""}


def test_groups_that_the_list_separates_are_counted(photos: Path) -> None:
    rows = [
        (file, label, ("train", "val", "test")[i % 10 // 4], f"scene {i // 3}")
        for i, (file, label) in enumerate(ROWS)
    ]
    dataset = opened(photos / "list.csv", csv_text(rows, "file,label,split,group"))
    separated = [
        group for group in {row[3] for row in rows} if len({row[2] for row in rows if row[3] == group}) > 1
    ]
    assert any(f"{len(separated)} groups have images in several splits" in note for note in dataset.notes)
    rows = [(file, label, split, f"{split} {group}") for file, label, split, group in rows]
    assert opened(photos / "list.csv", csv_text(rows, "file,label,split,group")).notes == ()


def test_channels_are_those_of_the_images(photos: Path) -> None:
    for name, _ in ROWS:
        write_image(photos / name, gray=True)
    assert opened(photos / "list.csv", csv_text(ROWS)).channels == 1
    write_image(photos / ROWS[-1][0])
    assert opened(photos / "list.csv", csv_text(ROWS)).channels == 3


def test_a_listed_file_that_does_not_exist_is_named_when_it_is_read(photos: Path) -> None:
    (photos / "cat" / "3.png").unlink()
    dataset = opened(photos / "list.csv", csv_text(ROWS))
    split, index = next(
        (split, i)
        for split in dataset.splits.values()
        for i in range(len(split))
        if split.images.name(i).endswith("cat/3.png")
    )
    with pytest.raises(UnreadableImage, match=r"cat/3\.png: No such file"):
        split.images.image(index)


@pytest.mark.parametrize("name", [255 * "n", "/".join(["folder"] * 1000)])
def test_a_name_as_long_as_a_file_may_have_is_a_missing_file(photos: Path, name: str) -> None:
    dataset = opened(photos / "list.csv", csv_text([(name, "cat"), *ROWS]))
    assert sum(counts(dataset).values()) == len(ROWS) + 1


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "header",
    [
        *[
            ("file", "label"),
            ("File", "Label"),
            ("filename", "class"),
            ("path", "label"),
            ("image", "target"),
        ],
        *[("image_path", "Class Name"), ("FILE_NAME", "category"), ("img-path", "label_name")],
    ],
)
def test_usual_separators_and_names_of_columns_are_understood(
    photos: Path, separator: str, header: tuple[str, str]
) -> None:
    lines = [f"no{separator}{separator.join(header)}"]
    lines += [f"{number}{separator}{name}{separator}{label}" for number, (name, label) in enumerate(ROWS)]
    text = "\ufeff" + "\r\n".join(lines) + "\r\n"
    assert all_members(opened(photos / "list.csv", text)) == dict(ROWS)


@pytest.mark.parametrize("header", [("File", "Label"), ("filename", "class"), ("image", "target")])
def test_usual_names_of_fields_are_understood(photos: Path, header: tuple[str, str]) -> None:
    assert all_members(opened(photos / "list.jsonl", json_text(ROWS, header))) == dict(ROWS)


def test_a_column_of_our_own_name_comes_before_others(photos: Path) -> None:
    rows = [(name, label, "x", "y") for name, label in ROWS]
    assert all_members(opened(photos / "list.csv", csv_text(rows, "file,label,class,path"))) == dict(ROWS)


def test_labels_that_hold_the_other_separators_are_read(photos: Path) -> None:
    rows = [(name, f"{label}; a|b") for name, label in ROWS]
    assert all_members(opened(photos / "list.csv", csv_text(rows))) == dict(rows)


def test_files_are_named_absolutely_or_from_above_the_list_or_with_backslashes(photos: Path) -> None:
    (photos / "lists").mkdir()
    spellings = [lambda name: str(photos / name), lambda name: f"../{name}", lambda name: f"..\\{name}"]
    rows = [
        (spellings[number % 3](name.replace("/", "\\" if number % 3 == 2 else "/")), label)
        for number, (name, label) in enumerate(ROWS)
    ]
    assert all_members(opened(photos / "lists" / "list.csv", csv_text(rows))) == dict(ROWS)


def test_one_file_under_two_spellings_is_listed_twice(photos: Path) -> None:
    rows = [*ROWS, (str(photos / "cat/0.png"), "dog")]
    with pytest.raises(UserError, match=r"cat/0\.png is listed twice"):
        opened(photos / "list.csv", csv_text(rows))
    rows = [*ROWS, ("cat\\0.png", "cat")]
    assert all_members(opened(photos / "list.csv", csv_text(rows))) == dict(ROWS)


def test_names_and_labels_match_in_every_unicode_form(photos: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    rows = []
    for number in range(10):
        write_image(photos / decomposed / f"{decomposed} {number}.png")
        rows.append((f"{composed}/{composed} {number}.png", composed if number % 2 else decomposed))
    dataset = opened(photos / "list.csv", csv_text([*ROWS, *rows]))
    assert dataset.classes == (composed, "cat", "dog")
    assert dataset.warnings == ("10 files have names in another Unicode form than the list: they were taken",)
    for split in dataset.splits.values():
        for index in range(len(split)):
            split.images.image(index)


def test_listed_files_that_do_not_exist_are_counted(photos: Path) -> None:
    (photos / "cat" / "3.png").unlink()
    (photos / "dog" / "4.png").unlink()
    dataset = opened(photos / "list.csv", csv_text(ROWS))
    assert dataset.warnings == ("2 of 20 listed files do not exist, cat/3.png first",)


def test_a_listed_pipe_or_device_does_not_hang(photos: Path) -> None:
    os.mkfifo(photos / "pipe.png")
    dataset = opened(photos / "list.csv", csv_text([*ROWS, ("pipe.png", "cat"), ("/dev/zero", "dog")]))
    assert sum(counts(dataset).values()) == 22


# ---- errors: the content of a list, and its message with LIST for the list's path


UNDERSTOOD = (
    "file (or filename, path, image, ...) and label (or class, target, category, ...), and optionally split "
    "and group"
)
ONE_OBJECT = f"expected one JSON object a line, with {UNDERSTOOD}"
ON_A_DRIVE = "is on a drive of another computer: name files from the list's folder"
NO_FILE_NAME = "cannot be a file: expected a name such as cats/1.jpg, with / between folders"
SHORTEN = "and a file has at most 255: shorten it"
NO_LABEL = "expected a class's name or number, one line of text"
TWICE = "cat/0.png is listed twice, with another label, split or group: keep one of the lines"
OPEN_QUOTE = "look for a quote that is not closed"
TOO_LONG = "longer than the 65,536 bytes that are read: is it text?"
HEADER = "file,label\n"


CSV_ERRORS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", f"LIST has no column for the file: its columns are none; understood are {UNDERSTOOD}"),
    "no header": (
        "cat/0.png,cat\n",
        f"LIST has no column for the file: its columns are 'cat/0.png', 'cat'; understood are {UNDERSTOOD}",
    ),
    "no files": ("label,size\ncat,1\n", "LIST has no column for the file: its columns are 'label', 'size';"),
    "no labels": ("file;size\na;1\n", "LIST has no column for the label: its columns are 'file', 'size';"),
    "two columns of files": (
        "file,label,file\n",
        "LIST has several columns for the file, 'file', 'file': rename the one to use to file, and the "
        "others",
    ),
    "two names of files": (
        "path,image,label\n",
        "LIST has several columns for the file, 'path', 'image': rename the one to use to file",
    ),
    "two columns of labels": ("label,file, label\n", "LIST has several columns for the label"),
    "two columns of splits": ("file,label,split,split\n", "LIST has several columns for the split"),
    "two columns of groups": ("group,file,label,group\n", "LIST has several columns for the group"),
    "a semicolon in a label": (
        "file;label\ncat/1.png;cat; asleep\n",
        "LIST, line 2: 3 cells, where the first line has 2: quote text that holds a semicolon",
    ),
    "a comma in a label": (
        f"{HEADER}cat/0.png,cat\ncat/1.png,cat, asleep\n",
        "LIST, line 3: 3 cells, where the first line has 2: quote text that holds a comma",
    ),
    "a cell lost": (f"{HEADER}\ncat/0.png\n", "LIST, line 3: 1 cells, where the first line has 2"),
    "an open quote": (
        f'{HEADER}cat/0.png,"cat\n',
        f"LIST, line 2: not CSV (unexpected end of data): {OPEN_QUOTE}",
    ),
    "text after a quote": (f'{HEADER}cat/0.png,cat\n"cat"/1.png,cat\n', "LIST, line 3: not CSV ("),
    "an open quote in a long list": (
        HEADER + '"' + "cat/0.png,cat\n" * 10_000,
        f"not CSV (field larger than field limit (131072)): {OPEN_QUOTE}",
    ),
    "lines ended by carriage returns": ("file,label\rcat/0.png,cat\r", "LIST, line 1: not CSV ("),
    "a long line": (HEADER + "x" * (64 << 10) + "\n", f"LIST, line 2: {TOO_LONG}"),
    "Latin-1": (
        f"{HEADER}cat/0.png,cat\ncaf\xe9/0.png,cat\n".encode("latin-1"),
        "LIST, line 3: not text in UTF-8",
    ),
    "UTF-16": (HEADER.encode("utf-16"), "LIST, line 1: not text in UTF-8: save the list in UTF-8"),
    "a label of two lines": (
        f'{HEADER}cat/0.png,cat\ncat/1.png,"tabby\ncat"\n',
        f"LIST, line 4 has the label 'tabby\\x0acat': {NO_LABEL}",
    ),
    "a name of two lines": (
        f'{HEADER}"C:/\n0.png",cat\n',
        "LIST, line 3: C:/\\x0a0.png is on a drive",
    ),
    "a name that a terminal obeys": (
        f"{HEADER}C:/\x1b[2J.png,cat\n",
        f"LIST, line 2: C:/\\x1b[2J.png {ON_A_DRIVE}",
    ),
    "nothing listed": (HEADER, "manifest:LIST should hold at least 2 classes of images; found 0"),
    "a single class": (
        csv_text(ROWS[:10]),
        "manifest:LIST should hold at least 2 classes of images; found 1",
    ),
    "files of another folder": (
        csv_text([(f"photos/{name}", label) for name, label in ROWS]),
        "LIST lists photos/cat/0.png and no file that exists (looked for FOLDER/photos/cat/0.png): "
        "files are named absolutely, or from the list's own folder",
    ),
    "split only at the end": (
        "file,label,split\ncat/0.png,cat,\ncat/1.png,cat,train\n",
        "LIST, line 3: some images have a split and others none: give every line a split, or no line",
    ),
    "split only at the start": (
        "file,label,split\ncat/0.png,cat,test\ncat/1.png,cat, \n",
        "LIST, line 3: some images have a split and others none",
    ),
}

JSON_ERRORS: dict[str, tuple[str | bytes, str]] = {
    "nothing listed": ("", "manifest:LIST should hold at least 2 classes of images; found 0"),
    "a document of all": (
        json.dumps([{"file": name} for name, _ in ROWS]),
        "LIST, line 1: Expected `object`, got `array`",
    ),
    "a document over lines": (
        json.dumps({"file": "cat/0.png"}, indent=1),
        "LIST, line 1: Input data was truncated",
    ),
    "CSV": ("\nfile,label\n", "LIST, line 2: JSON is malformed"),
    "two objects in a line": (
        '{"file":"cat/0.png","label":"cat"} {"file":"cat/1.png"}\n',
        "LIST, line 1: JSON is malformed",
    ),
    "no file": ('{"label": "cat"}\n', "LIST, line 1 has no column for the file: its columns are 'label'"),
    "no label": (
        json_text(ROWS[:3]) + '{"file": "cat/3.png"}',
        "LIST, line 4 has no column for the label: its columns are 'file'",
    ),
    "a number as a file": (
        '{"file": 1, "label": "cat"}',
        f"LIST, line 1: Expected `str`, got `int` - at `$.file`: {ONE_OBJECT}",
    ),
    "null as a label": (
        '{"file": "cat/0.png", "label": null}',
        "LIST, line 1: Expected `int | str`, got `null`",
    ),
    "a truth value as a label": (
        '{"file": "cat/0.png", "label": true}',
        "LIST, line 1: Expected `int | str`, got `bool`",
    ),
    "a fraction as a label": (
        '{"file": "cat/0.png", "label": 0.5}',
        "LIST, line 1: Expected `int | str`, got `float`",
    ),
    "a number of many digits": (
        '{"file": "cat/0.png", "label": ' + 5_000 * "1" + "}",
        "LIST, line 1: Integer value out of range",
    ),
    "a number as a split": (
        '{"file": "cat/0.png", "label": 1, "split": 1}',
        "LIST, line 1: Expected `str | null`, got `int`",
    ),
    "a list as a group": (
        '{"file": "cat/0.png", "label": 1, "group": []}',
        "LIST, line 1: Expected `int | str | null`, got `array`",
    ),
    "nested without end": (
        '{"x":' + "[" * 60_000,
        f"LIST, line 1: maximum recursion depth exceeded while deserializing an object: {ONE_OBJECT}",
    ),
    "a long line": (json_text(ROWS[:2]) + '{"file":"' + "x" * (64 << 10) + '"}', f"LIST, line 3: {TOO_LONG}"),
    "a pipe of zeros": (bytes(1 << 20), f"LIST, line 1: {TOO_LONG}"),
    "Latin-1": ('\n{"file": "caf\xe9.png", "label": 1}'.encode("latin-1"), "LIST, line 2: not text in UTF-8"),
    "a zero in a name": (
        json_text([("cat/0\0.png", "cat")]),
        f"LIST, line 1: 'cat/0\\x00.png' {NO_FILE_NAME}",
    ),
    "a zero in a label": (
        json_text([("cat/0.png", "c\0t")]),
        f"LIST, line 1 has the label 'c\\x00t': {NO_LABEL}",
    ),
    "two lines in a label": (
        json_text([("cat/0.png", "a\u2028b")]),
        f"LIST, line 1 has the label 'a\\xe2\\x80\\xa8b': {NO_LABEL}",
    ),
    "split only at the end": (
        json_text([("cat/0.png", "cat", None), ("cat/1.png", "cat", "val")], ("file", "label", "split")),
        "LIST, line 2: some images have a split and others none",
    ),
    "files of another folder": (
        json_text([(f"photos/{name}", label) for name, label in ROWS]),
        "LIST lists photos/cat/0.png and no file that exists (looked for FOLDER/photos/cat/0.png): "
        "files are named absolutely, or from the list's own folder",
    ),
}


def message_of(file: Path, content: str | bytes) -> str:
    """The error of a list, which is one line; with LIST for the list's path."""
    with pytest.raises(UserError) as error:
        opened(file, content)
    assert str(error.value).isprintable()
    return str(error.value).replace(str(file), "LIST").replace(str(file.parent), "FOLDER")


@pytest.mark.parametrize("kind", CSV_ERRORS)
def test_an_error_in_csv_is_named_with_its_line(photos: Path, kind: str) -> None:
    content, message = CSV_ERRORS[kind]
    assert message in message_of(photos / "list.csv", content)


@pytest.mark.parametrize("kind", JSON_ERRORS)
def test_an_error_in_json_lines_is_named_with_its_line(photos: Path, kind: str) -> None:
    content, message = JSON_ERRORS[kind]
    assert message in message_of(photos / "list.jsonl", content)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("cat/..", "cat", "train", ""), f"'cat/..' {NO_FILE_NAME}"),
        (("/", "cat", "train", ""), f"'/' {NO_FILE_NAME}"),
        (("C:/cat/0.png", "cat", "train", ""), f"C:/cat/0.png {ON_A_DRIVE}"),
        (("c:0.png", "cat", "train", ""), f"c:0.png {ON_A_DRIVE}"),
        (("\\\\server\\cats\\0.png", "cat", "train", ""), ON_A_DRIVE),
        (("", "cat", "train", ""), f"'' {NO_FILE_NAME}"),
        ((".", "cat", "train", ""), f"'.' {NO_FILE_NAME}"),
        (("./", "cat", "train", ""), f"'./' {NO_FILE_NAME}"),
        ((f"cat/{256 * 'n'}", "cat", "train", ""), f"the name {40 * 'n'}... has 256 bytes, {SHORTEN}"),
        ((f"{128 * 'ä'}/0.png", "cat", "train", ""), f"the name {40 * 'ä'}... has 256 bytes, {SHORTEN}"),
        (
            ("cat/1.png", "cat", "fold 1", ""),
            "unknown split 'fold 1': known are train, training, val, valid, validation, dev, development, "
            "test, ",
        ),
        (("cat/1.png", " ", "train", ""), f" has the label '': {NO_LABEL}"),
        (("cat/1.png", 1_001 * "c", "train", ""), f" has the label '{40 * 'c'}...': {NO_LABEL}"),
        (("cat/0.png", "dog", "train", "1"), TWICE),
        (("cat/0.png", "cat", "val", "1"), TWICE),
        (("cat/0.png", "cat", "train", "2"), TWICE),
        (("cat/0.png", "cat", "train", ""), TWICE),
        (("./cat//0.png", "dog", "train", "1"), TWICE),
        (("cat/1.png", "cat", "", "1"), "some images have a split and others none"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(
    photos: Path, ending: str, row: tuple[str, ...], message: str
) -> None:
    rows, columns = [("cat/0.png", "cat", "train", "1"), row], ("file", "label", "split", "group")
    text = csv_text(rows, ",".join(columns)) if ending == "csv" else json_text(rows, columns)
    error = message_of(photos / f"list.{ending}", text)
    assert error.startswith(f"LIST, line {3 if ending == 'csv' else 2}")
    assert message in error


def test_the_longest_label_is_taken(photos: Path) -> None:
    rows = [(name, 1_000 * label[0]) for name, label in ROWS]
    assert opened(photos / "list.csv", csv_text(rows)).classes == (1_000 * "c", 1_000 * "d")


@pytest.mark.parametrize("name", ["nowhere.csv", "cat", "cat/0.png/list.csv"])
def test_a_list_that_is_no_file_is_named(photos: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=f"{name} is not a file: expected a list of images, CSV or JSON lines with file"
    ):
        open_dataset(f"manifest:{photos / name}")


def test_the_source_needs_a_path() -> None:
    with pytest.raises(UserError, match="expected manifest:PATH"):
        open_dataset("manifest:")


WORDS = ["file", "label", "split", "train", "cat/0.png", "../", "{", "}", '"file":', '"label":', "[", "1"]
MARKS = [" ", ",", '"', "\n", "\r\n", "\r", ":", "/", "\\", "\0", "\ufeff", "\u2028", "é"]
PIECES = [piece.encode() for piece in [*WORDS, *MARKS]] + [b"\xff"]


@given(st.lists(st.sampled_from(PIECES), max_size=20), st.sampled_from(["fuzzed.csv", "fuzzed.jsonl"]))
def test_whatever_a_list_holds_the_error_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], name: str
) -> None:
    header = HEADER.encode() if name.endswith(".csv") else b""
    with pytest.raises(UserError) as error:  # no such list has two classes of files that exist
        opened(tmp_path_factory.getbasetemp() / name, header + b"".join(pieces))
    assert str(error.value).isprintable()
