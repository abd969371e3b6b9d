"""Images in a column of Arrow files: rows as written; files that change or lie elsewhere are refused."""

import io
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
from helpers.changed_files import lengthen
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convatlas.data import open_dataset
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.sources.arrow import ArrowImages, file_stamp, first_line, require_inside
from convatlas.errors import UserError

RNG = np.random.default_rng(0)
IMAGE = pyarrow.struct(
    [("bytes", pyarrow.binary()), ("path", pyarrow.string())]
)  # as `datasets.Image` stores it

Row = dict[str, bytes | str | None] | None


def encoded(size: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (size, size, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def decoded(data: bytes) -> bytes:
    return np.asarray(Image.open(io.BytesIO(data))).tobytes()


def inline(count: int) -> list[Row]:
    return [{"bytes": encoded(), "path": None} for _ in range(count)]


def write_arrow(file: Path, rows: Sequence[Row], batch: int = 4) -> Path:
    """A file in Arrow's streaming format, some rows a record batch."""
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = pyarrow.schema([("label", pyarrow.int64()), ("image", IMAGE)])
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        for start in range(0, len(rows), batch):
            images = pyarrow.array(rows[start : start + batch], IMAGE)
            labels = pyarrow.array(range(start, start + len(images)), pyarrow.int64())
            writer.write_batch(pyarrow.record_batch([labels, images], schema=schema))
    return file


def open_rows(
    files: Sequence[Path], counts: dict[str, int], roots: Sequence[Path] | None = None
) -> ArrowImages:
    """These files as the splits of a data set, with so many rows each."""
    starts = np.cumsum([0, *counts.values()], dtype=np.int64)
    return ArrowImages(
        "hf:pets",
        list(counts),
        starts,
        files,
        [file_stamp(file) for file in files],
        "image",
        roots or [files[0].parent],
    )


def open_named(folder: Path, *paths: str, roots: Sequence[Path] | None = None) -> ArrowImages:
    """ArrowImages that name image files instead of holding them."""
    rows: list[Row] = [{"bytes": None, "path": path} for path in paths]
    return open_rows([write_arrow(folder / "data.arrow", rows)], {"train": len(rows)}, roots)


# ArrowImages


def test_every_row_is_read_whatever_file_and_batch_holds_it(tmp_path: Path) -> None:
    rows = inline(23)
    ranges = [(0, 9), (9, 9), (9, 10), (10, 23)]
    files = [write_arrow(tmp_path / f"{start}-{end}.arrow", rows[start:end]) for start, end in ranges]
    images = open_rows(files, {"train": 15, "sketches": 0, "test": 8})
    assert len(images) == 23
    for i in map(int, RNG.permutation(23)):
        row = rows[i]
        assert row is not None
        assert images.content(i) == images.image(i).data == row["bytes"]
    labels = [value for chunk in images.column("label") for value in chunk.to_pylist()]
    assert labels == [*range(9), 0, *range(13)]


def test_a_row_is_named_by_its_split_and_its_place_there(tmp_path: Path) -> None:
    file = write_arrow(tmp_path / "0.arrow", inline(5))
    images = open_rows([file], {"train": 3, "sketches": 0, "test": 2})
    names = [images.name(i) for i in range(5)]
    assert names == [*(f"hf:pets train #{i}" for i in range(3)), *(f"hf:pets test #{i}" for i in range(2))]
    assert open_rows([file], {"": 5}).name(4) == "hf:pets #4"


@pytest.mark.parametrize(
    "row",
    [
        None,
        {"bytes": None, "path": None},
        {"bytes": None, "path": ""},
        {"bytes": b"", "path": None},
        {"bytes": b"", "path": "0.png"},  # bytes count where there are any, and these are an empty file
    ],
)
def test_a_row_without_an_image_is_an_empty_file(tmp_path: Path, row: Row) -> None:
    (tmp_path / "0.png").write_bytes(encoded())
    images = open_rows([write_arrow(tmp_path / "0.arrow", [*inline(1), row])], {"train": 2})
    assert images.content(1) == b""
    with pytest.raises(UnreadableImage, match="hf:pets train #1: the file is empty"):
        images.image(1)
    assert images.image(0).height == 6


def test_a_column_that_is_missing_is_said(tmp_path: Path) -> None:
    images = open_rows([write_arrow(tmp_path / "0.arrow", inline(2))], {"train": 2})
    with pytest.raises(UserError, match=r"^hf:pets is damaged \(.*caption.*\): fetch or write it again$"):
        images.column("caption")


# Files that change


def rewrite(file: Path, rows: Sequence[Row]) -> None:
    """Write a file again, a second later."""
    before = file.stat().st_mtime_ns
    write_arrow(file, rows)
    os.utime(file, ns=(before + 10**9, before + 10**9))


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten": lambda file: rewrite(file, inline(4)),
    "replaced": lambda file: write_arrow(file.with_name("new"), inline(9)).replace(file),
    "longer, in the same moment": lambda file: lengthen(file),
    "truncated": lambda file: os.truncate(file, 500),
    "empty": lambda file: file.write_bytes(b""),
    "touched": lambda file: os.utime(file, (1, 1)),
}
CHANGED = r"^hf:pets was changed while it is in use: start again$"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("changed", [0, 1])
def test_a_file_that_changed_is_noticed_before_it_is_read(tmp_path: Path, change: str, changed: int) -> None:
    files = [write_arrow(tmp_path / f"{i}.arrow", inline(4)) for i in range(2)]
    images = open_rows(files, {"train": 8})
    CHANGES[change](files[changed])
    for i in range(8):
        with pytest.raises(UserError, match=CHANGED) as caught:
            images.image(i)
        assert not isinstance(caught.value, UnreadableImage)  # a training would only leave the image out
    with pytest.raises(UserError, match=CHANGED):
        images.column("label")


def test_a_file_that_is_gone_is_named_in_one_sentence(tmp_path: Path) -> None:
    file = write_arrow(tmp_path / "0.arrow", inline(4))
    images = open_rows([file], {"train": 4})
    file.unlink()
    reason = r"No such file.*0\.arrow.*"
    with pytest.raises(UserError, match=rf"^hf:pets is damaged \(.*{reason}\): fetch or write it again$"):
        images.image(0)


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_what_a_process_has_open_stays_as_it_was(tmp_path: Path, change: str) -> None:
    rows = inline(8)
    file = write_arrow(tmp_path / "0.arrow", rows)
    images = open_rows([file], {"train": 8})
    before = images.content(0)
    if change == "replaced":
        write_arrow(tmp_path / "new", inline(20)).replace(file)
    else:
        file.unlink()
    contents = [images.content(i) for i in range(8)]
    assert contents == [row["bytes"] for row in rows if row]
    assert contents[0] == before
    with pytest.raises(UserError):  # another process does not have it open
        pickle.loads(pickle.dumps(images)).content(0)


def test_a_data_set_that_changes_after_it_was_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    data = [encoded() for _ in range(40)]
    label = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"image": datasets.Image(), "label": label})
    table = datasets.Dataset.from_dict({"image": data, "label": [0, 1] * 20}, features=features)
    table.save_to_disk(str(tmp_path / "pets"), num_shards=3)
    name = f"hf:{tmp_path / 'pets'}"
    open_dataset(name)
    dataset = open_dataset(name)  # whose images are known from before: it has read none
    os.utime(sorted((tmp_path / "pets").glob("*.arrow"))[1], (1, 1))
    for split in dataset.splits.values():
        with pytest.raises(UserError, match=f"^{name} was changed while it is in use: start again$"):
            split.images.image(0)
    pixels = set()
    for split in open_dataset(name).splits.values():
        pixels |= {split.images.image(i).decode(3, (0, 0)).tobytes() for i in range(len(split))}
    assert pixels == set(map(decoded, data))


@given(st.data())
def test_a_truncated_file_is_refused_or_lacks_whole_batches(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rows = inline(8)
    file = tmp_path_factory.getbasetemp() / "truncated.arrow"
    file.unlink(missing_ok=True)  # which the example before may still have mapped
    write_arrow(file, rows)
    os.truncate(file, data.draw(st.integers(0, file.stat().st_size - 1)))
    images = open_rows([file], {"train": 8})
    try:
        count = sum(map(len, images.column("image")))
    except UserError as error:
        assert str(error).startswith("hf:pets is damaged (")
        assert str(error).endswith("): fetch or write it again")
        assert str(error).isprintable()
    else:
        assert count in (0, 4, 8)  # the mark at the end of a stream is optional
        assert [images.content(i) for i in range(count)] == [row["bytes"] for row in rows[:count] if row]


# Paths


def test_a_row_may_name_a_file_anywhere_in_its_folders(tmp_path: Path) -> None:
    data = {name: encoded() for name in ("pets/0.png", "pets/a/b/1.png", "cache/2.png")}
    for name, content in data.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    paths = [
        "0.png",
        "a/b/../../a//b/./1.png",
        str(tmp_path / "pets" / "0.png"),
        "../cache/2.png",
        str(tmp_path / "cache" / "2.png"),
    ]
    images = open_named(tmp_path / "pets", *paths, roots=[tmp_path / "pets", tmp_path / "cache"])
    expected = ["pets/0.png", "pets/a/b/1.png", "pets/0.png", "cache/2.png", "cache/2.png"]
    assert [images.content(i) for i in range(len(paths))] == [data[name] for name in expected]
    assert images.image(1).name == "hf:pets train #1"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("../outside.png", "outside.png"),
        ("a/../../outside.png", "outside.png"),
        ("../pets2/0.png", "pets2/0.png"),  # whose name only starts like the folder's
        ("{folder}/outside.png", "outside.png"),
        ("{folder}/pets/../outside.png", "outside.png"),
        ("{folder}", ""),
        ("..", ""),
        ("../../../../../../../../../../../../../../dev/zero", "/dev/zero"),
        ("/dev/zero", "/dev/zero"),
        ("../\x1b[2J.png", r"\x1b[2J.png"),
    ],
)
def test_a_row_that_leads_out_of_its_folders_is_refused_unread(tmp_path: Path, path: str, place: str) -> None:
    for name in ("outside.png", "pets2/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded())
    images = open_named(tmp_path / "pets", path.format(folder=tmp_path))
    with pytest.raises(UserError) as caught:
        images.image(0)
    assert not isinstance(caught.value, UnreadableImage)
    reason = f"is said to be in {tmp_path / place}, which is not its own folder: nothing there is read"
    assert str(caught.value) == f"hf:pets train #0 {reason}"


@pytest.mark.parametrize("path", ["gone.png", ".", "a", "pipe", "\0", "x" * 300, "data.arrow/0.png"])
def test_what_a_row_names_and_is_no_image_file_is_unreadable(tmp_path: Path, path: str) -> None:
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "pipe")  # from which reading would never end
    images = open_named(tmp_path, path)
    with pytest.raises(UnreadableImage) as caught:
        images.image(0)
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).isprintable()


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b"]), max_size=8))
def test_a_path_is_inside_exactly_if_its_steps_stay_there(steps: list[str]) -> None:
    place = ["data", "pets"]  # a walk from the folder, step by step
    for step in steps:
        if step == "..":
            place = place[:-1]
        elif step not in (".", ""):
            place = [*place, step]
    file = Path("/" + "/".join(place))
    path = Path("/data/pets/" + "/".join(steps))
    if place[:2] == ["data", "pets"] or place[:1] == ["cache"]:
        assert require_inside(path, [Path("/cache"), Path("/data/pets")], "row 1") == file
    else:
        with pytest.raises(UserError, match=f"^row 1 is said to be in {file}, which is not its own folder"):
            require_inside(path, [Path("/cache"), Path("/data/pets")], "row 1")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("Invalid: no schema", "Invalid: no schema"),
        (OSError("Expected 8 bytes.\nHint: try again\n"), "Expected 8 bytes"),
        ("\n\n  Available columns:\n- a\n- b", "Available columns"),
        ("bad \x1b[2J name...", r"bad \x1b[2J name"),
        ("x" * 1000, "x" * 300),
        ("", ""),
    ],
)
def test_of_a_librarys_error_the_first_line_is_shown(error: object, expected: str) -> None:
    assert first_line(error) == expected
