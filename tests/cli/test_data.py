"""`convatlas data`: what it prints, as text and as JSON, and what it writes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import damage
from PIL import Image

from convatlas.cli.main import main

RNG = np.random.default_rng(0)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, count in {"cat": 20, "dog": 30}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            blocks = RNG.integers(0, 256, size=(6, 8, 3), dtype=np.uint8)
            Image.fromarray(blocks.repeat(5, axis=0).repeat(5, axis=1)).save(
                tmp_path / "photos" / name / f"{i}.png"
            )
    return tmp_path / "photos"


def test_check_counts_a_sound_set_and_names_the_next_command(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", "folder:photos"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["class", "train", "val", "test"],
        ["cat", "16", "2", "2"],
        ["dog", "24", "3", "3"],
    ]
    assert "50 images; all 40x30" in lines
    assert lines[-1] == "next: convatlas train MODEL --data folder:photos"
    assert not (photos / "quarantine.jsonl").exists()


def test_check_exits_with_1_and_quarantines_broken_files(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, data in enumerate([damage.unreadable_files()["truncated.jpg"]] * 27):
        (photos / "cat" / f"bad{i}.jpg").write_bytes(data + bytes([i]))
    assert main(["data", "check", "folder:photos"]) == 1
    captured = capsys.readouterr()
    assert "27 cannot be read" in captured.out
    assert captured.out.count(": not a readable") == 20
    assert "and 7 more: --json lists all" in captured.out
    assert captured.out.splitlines()[-1].startswith("next: fix or remove the 27 broken files")
    assert "photos/quarantine.jsonl" in captured.out.splitlines()[-1]
    assert captured.err == ""
    assert len((photos / "quarantine.jsonl").read_text().splitlines()) == 27


def test_check_prints_a_document(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "cat" / "bad.jpg").write_bytes(b"")
    (photos / "cat" / "odd.jpg").write_bytes(damage.unusual_files()["progressive.jpg"])
    shutil.copy(photos / "dog" / "3.png", photos / "dog" / "again.png")
    assert main(["data", "check", "folder:photos", "--json", "--workers", "2"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert [(entry["file"], entry["reason"]) for entry in document["bad"]] == [
        ("photos/cat/bad.jpg", "the file is empty")
    ]
    assert document["notes"] == [
        {"file": "photos/cat/odd.jpg", "note": "progressive JPEG: takes longer to read"}
    ]
    (pair,) = document["duplicates"]
    assert (sorted(pair["files"]), pair["distance"], pair["identical"]) == (
        ["photos/dog/3.png", "photos/dog/again.png"],
        0,
        True,
    )
    assert (len(pair["splits"]), pair["classes"]) == (2, ["dog", "dog"])
    assert document["n"] == 53
    assert sum(document["classes"]["dog"].values()) == 31
    assert document["sizes"]["smallest"] == {"width": 40, "height": 30, "file": "photos/cat/0.png"}
    assert document["quarantine"] == "photos/quarantine.jsonl"
    assert document["training_error"] is None


def test_duplicates_across_splits_come_first(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "test"):
        shutil.copytree(photos, photos.parent / "parts" / part)
    shutil.rmtree(photos.parent / "parts/test/cat")
    (photos.parent / "parts/test/cat").mkdir()
    shutil.copy(photos / "dog" / "0.png", photos.parent / "parts/test/cat/two classes.png")
    assert main(["data", "check", "folder:parts"]) == 1
    out = capsys.readouterr().out
    assert "files with the same content under different classes" in " ".join(out.split())
    assert "30 clusters of images across splits are equal or look alike" in out
    first = out.splitlines()[
        out.splitlines().index(next(line for line in out.splitlines() if "clusters of images across" in line))
        + 1
    ]
    assert "two classes.png" in first
    assert "of classes" in first
    assert "and 10 more: --json lists all" in out
    assert out.splitlines()[-1] == "next: fix that, then check again"


def test_a_set_that_no_training_can_use_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train/cat", "test/dog", "test/cat"):
        Path("photos", name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(RNG.integers(0, 256, size=(30, 40, 3), dtype=np.uint8)).save(
                Path("photos", name, f"{i}.png")
            )
    assert main(["data", "check", "folder:photos"]) == 1
    out = capsys.readouterr().out
    assert "no training can use it: folder:photos: train has no images of class dog" in out
    assert "  train has no dog\n" in out
    assert main(["data", "check", "folder:photos", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert "train has no images of class dog" in document["training_error"]
    assert out.splitlines()[-1] == "next: fix that, then check again"


def test_the_table_of_classes_stays_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for label in range(120):
        Path("photos", f"c{label:03d}").mkdir(parents=True)
        for i in range(5 + (label == 77)):
            Image.fromarray(RNG.integers(0, 256, size=(4, 5), dtype=np.uint8)).save(
                Path("photos", f"c{label:03d}", f"{i}.png")
            )
    assert main(["data", "check", "folder:photos"]) == 0
    out = capsys.readouterr().out
    assert "120 classes: the smallest, those missing in a split, the largest" in out
    assert 10 < sum(line.startswith(("c0", "c1")) for line in out.splitlines()) <= 24
    assert "c077" in out


def test_names_of_files_cannot_control_the_terminal(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "dog").rename(photos / "d\x1b[31mog")
    (photos / "d\x1b[31mog" / "b\x1b[31mad.jpg").write_bytes(b"")
    (photos / "d\x1b[31mog" / "\x1b]52;c;x\x07.txt").write_bytes(b"")
    for words in (["check"], ["check", "--json"], ["info"], ["split"], ["info", "--json", "--png", "x.png"]):
        main(["data", words[0], "folder:photos", *words[1:]])
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        assert r"\x1b[31mog" in captured.out


def test_a_list_that_cannot_be_written_is_reported_last(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: object, entries: object) -> None:
        raise OSError(28, "No space left on device", "photos/quarantine.jsonl")

    monkeypatch.setattr("convatlas.data.sources.quarantine.Quarantine.add", refuse)
    (photos / "cat" / "bad.jpg").write_bytes(b"")
    assert main(["data", "check", "folder:photos"]) == 1
    captured = capsys.readouterr()
    assert "photos/cat/bad.jpg: the file is empty" in captured.out
    assert "No space left" in captured.out.splitlines()[-1]
    assert main(["data", "check", "folder:photos", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["quarantine"] is None


def test_info_draws_a_contact_sheet_for_a_recipe(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "data",
                "info",
                "folder:photos",
                "--model",
                "resnet20_cifar",
                "--recipe",
                "paper",
                "--png",
                "sheet.png",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "of 40 training images at 32x32" in out
    assert "wrote sheet.png" in out
    assert out.splitlines()[-1] == "next: convatlas train resnet20_cifar --data folder:photos"
    assert Path("sheet.png").read_bytes().startswith(b"\x89PNG")


def test_info_prints_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", "digits", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["n"], document["channels"], document["size"], document["pixels_sampled"]) == (
        1797,
        1,
        [8, 8],
        1438,
    )
    assert (len(document["mean"]), len(document["std"]), document["png"]) == (1, 1, None)
    assert document["sizes"]["median"]["width"] == 8


@pytest.mark.parametrize(
    "words",
    [
        ["data", "--help"],
        ["data", "check", "--help"],
        ["data", "split", "--help"],
        ["data", "info", "--help"],
    ],
)
def test_help_lists_commands_and_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code in (0, None)
    out = capsys.readouterr().out
    assert f"usage: convatlas {' '.join(words[:-1])}" in out
    assert all(
        name in out for name in (("check", "split", "info") if len(words) == 2 else ("DATA", "--json"))
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chek"], "unknown data command 'chek': the nearest is 'check'"),
        (["check"], "missing DATA; see convatlas data check --help"),
        (["check", "digitz"], "unknown data set 'digitz': the nearest is 'digits'"),
        (["check", "folder:"], "lacks its path"),
        (
            ["check", "digits", "--jsn"],
            "unknown option '--jsn': the nearest is '--json'; see convatlas data check --help",
        ),
        (["check", "digits", "--workers", "0"], "--workers should be 1 to 1,024, not 0"),
        (["info", "digits", "--recipe", "quick"], "--recipe needs --model"),
        (["info", "digits", "--model", "resnet21_cifar"], "unknown network 'resnet21_cifar'"),
        (["info", "digits", "--model", "lenet5", "--recipe", "quik"], "unknown recipe 'quik'"),
    ],
)
def test_an_error_of_use_is_one_line_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
