"""Every source of the command line: trained on in the process itself and evaluated; its data may move."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convatlas.cli.main import main
from convatlas.data.sources.builtin import BUILTIN
from convatlas.errors import UsageError

RNG = np.random.default_rng(0)
WNIDS = ("n01440764", "n01443537")


def fill(root: Path, names: tuple[str, ...], count: int) -> None:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = RNG.integers(0, 256, size=(40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}_{number}.jpg")


def train(data: str, *options: str) -> list[str]:
    return ["train", "lenet5", "--data", data, "--epochs", "1", "--batch", "8", "--out", "run", *options]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "photos", WNIDS, 12)
    return tmp_path / "photos"


def make_folder(photos: Path) -> str:
    return "folder:photos"


def make_manifest(photos: Path) -> str:
    assert main(["data", "split", "folder:photos"]) == 0
    return "manifest:photos/split.csv"


def make_imagenet(photos: Path) -> str:
    shutil.copytree(photos, photos / "train")
    fill(photos / "val", WNIDS, 3)
    return "imagenet:photos"


def make_packed(photos: Path) -> str:
    assert main(["data", "pack", "folder:photos", "--out", "packed", "--workers", "1", "--side", "32"]) == 0
    return "packed:packed"


def make_packed_files(photos: Path) -> str:
    assert main(["data", "pack", "folder:photos", "--out", "packed", "--workers", "1", "--files"]) == 0
    return "packed:packed"


def make_tar(photos: Path) -> str:
    with tarfile.open("shard.tar", "w") as archive:
        for file in sorted(photos.rglob("*.jpg")):
            Path("label.cls").write_text(file.parent.name)
            archive.add(file, f"{file.stem}.jpg")
            archive.add("label.cls", f"{file.stem}.cls")
    return "tar:shard.tar"


def make_huggingface(photos: Path) -> str:
    datasets = pytest.importorskip("datasets")
    files = sorted(photos.rglob("*.jpg"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(WNIDS))})
    rows = {
        "image": [{"path": None, "bytes": file.read_bytes()} for file in files],
        "label": [WNIDS.index(file.parent.name) for file in files],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk("hub")
    return "hf:hub"


SOURCES = {
    "folder": make_folder,
    "manifest": make_manifest,
    "imagenet": make_imagenet,
    "packed": make_packed,
    "packed files": make_packed_files,
    "tar": make_tar,
    "hf": make_huggingface,
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_of_files_trains_and_evaluates_without_workers(
    photos: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = SOURCES[source](photos)
    capsys.readouterr()
    assert main(train(data, "--workers", "0", "--json")) == 0
    trained = json.loads(capsys.readouterr().out)["metrics"]
    assert main(["eval", "run", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert (evaluated["top1"], evaluated["n"]) == (trained["test_top1"], trained["test_n"])


def test_no_source_is_left_out() -> None:
    """The kinds that an unknown name lists are those above, and the sets in memory."""
    from convatlas.data import open_source

    with pytest.raises(UsageError) as error:
        open_source("?" * 40)
    known = str(error.value).partition("known are ")[2].split(", ")
    assert {name.split(":")[0] for name in known} - set(BUILTIN) == {name.split()[0] for name in SOURCES}


def test_the_banner_counts_what_is_passed_over_and_the_run_stays_the_same(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos)
    command = ["train", "lenet5", "--data", "folder:.", "--epochs", "1", "--batch", "8", "--workers", "0"]
    assert main(command) == 0
    assert "passed over" not in capsys.readouterr().out
    (photos / WNIDS[0] / "x.heic").write_bytes(b"x")
    (run,) = (photos / "runs").iterdir()
    (run / "report.md").unlink()  # so that the run continues, and writes it again
    assert main(command) == 0  # the run's pictures are below the data now
    out = " ".join(capsys.readouterr().out.split())
    assert "passed over 1 file: 1 .heic (not readable here); 1 folder: runs/lenet5-" in out
    assert list((photos / "runs").iterdir()) == [run]  # the same run
    assert main(["data", "info", "folder:."]) == 0
    assert "passed over: 1 file: 1 .heic (not readable here)" in capsys.readouterr().out


def test_predict_counts_what_it_passes_over_in_a_folder(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train("folder:photos", "--workers", "0")) == 0
    (photos / WNIDS[0] / "notes.txt").write_text("x")
    shutil.copy(photos / WNIDS[0] / f"{WNIDS[0]}_0.jpg", photos / "no extension")
    capsys.readouterr()
    assert main(["predict", "run", "photos", "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)) == 25
    assert "passed over in photos: 1 file: 1 .txt" in captured.err


def test_equal_files_of_two_classes_stop_a_training_before_it_starts(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = photos / WNIDS[0] / f"{WNIDS[0]}_0.jpg"
    shutil.copy(file, photos / WNIDS[1] / "again.jpg")
    assert main(train("folder:photos")) == 1
    error = capsys.readouterr().err
    assert f"({WNIDS[0]}) = photos/{WNIDS[1]}/again.jpg ({WNIDS[1]})" in error
    assert not Path("run").exists()
    assert main(train("folder:photos", "--set", "data.conflicts=drop", "--workers", "0", "--json")) == 0
    captured = capsys.readouterr()
    assert "2 files with the same content under different classes are left out" in captured.err
    trained = json.loads(captured.out)["metrics"]
    assert main(["eval", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == trained["test_top1"]
    assert main(["data", "info", "folder:photos"]) == 0


def test_a_run_resumes_where_its_data_are_now(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train("folder:photos", "--workers", "0")) == 0
    report = Path("run", "report.md").absolute()
    report.unlink()  # a run that has ended needs no data
    os.rename("photos", "moved")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    resume = ["train", "--resume", "../run", "--workers", "0"]
    capsys.readouterr()
    assert main(resume) == 1
    error = capsys.readouterr().err
    assert f"looked for {Path.cwd()}/photos" in error
    assert "--data" in error
    assert main([*resume, "--data", "folder:../moved"]) == 0
    assert report.exists()
    report.unlink()
    (Path("../moved") / WNIDS[0] / f"{WNIDS[0]}_0.jpg").unlink()
    capsys.readouterr()
    assert main([*resume, "--data", "folder:../moved"]) == 1
    assert "is not the data that this run was made for" in capsys.readouterr().err
