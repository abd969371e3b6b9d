"""Commands under torchrun: the ranks share the work, rank 0 prints, the bytes are those of one process."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.ensemble_members import make_classifier, make_photos, make_run
from helpers.mask_shapes import make_shapes, unet_run
from helpers.rank_jobs import RankResult, finish_ranks, start_ranks
from PIL import Image

import convatlas as ca
from convatlas.cli.main import main


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """A data set with 43 images, one of them damaged."""
    folder = tmp_path / "photos"
    name = make_photos(folder)
    (folder / "test" / "cat" / "damaged.png").write_bytes(b"\x89PNG damaged")
    return name


def run_single(capsys: pytest.CaptureFixture[str], *arguments: str) -> RankResult:
    code = main(list(arguments))
    output = capsys.readouterr()
    return RankResult(code, output.out, output.err)


def run_on_ranks(folder: Path, *arguments: str, count: int = 2) -> RankResult:
    """Rank 0's result; the others have the same exit code and print nothing."""
    first, *others = finish_ranks(start_ranks(folder, [(main, list(arguments))] * count))
    for other in others:
        assert (other.exit_code, other.stdout, other.stderr) == (first.exit_code, "", "")
    return first


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_predict_gives_the_same_bytes_and_the_same_order(
    form: str, photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", make_classifier(0))
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(75):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)).save(
            folder / f"{number:02d}.png"
        )
    # one engine: `auto` takes the fastest, and on a busy machine that may be another one the next time
    engine = ("--engine", "eager")
    arguments = ("predict", str(run), str(folder), photos.removeprefix("folder:"), form, *engine)
    single = run_single(capsys, *arguments)
    ranks = run_on_ranks(tmp_path, *arguments)
    assert single.exit_code == 1  # for the damaged one
    assert single.stdout.count('"file"') == 75 + 43
    assert (ranks.exit_code, ranks.stdout) == (1, single.stdout)
    assert "117 of 118 images" in ranks.stderr


def test_data_check_gives_the_same_document(
    photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = run_single(capsys, "data", "check", photos, "--json")
    ranks = run_on_ranks(tmp_path, "data", "check", photos, "--json", count=3)
    assert single.exit_code == 1
    assert len(json.loads(single.stdout)["bad"]) == 1
    assert (ranks.exit_code, ranks.stdout) == (1, single.stdout)


def packed_bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}


def test_data_pack_writes_the_same_files(
    photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = run_single(capsys, "data", "pack", photos, "--out", str(tmp_path / "single"))
    ranks = run_on_ranks(tmp_path, "data", "pack", photos, "--out", str(tmp_path / "ranks"))
    assert (ranks.exit_code, single.exit_code) == (1, 1)  # for the damaged one
    assert ranks.stdout == single.stdout.replace("single", "ranks")
    assert packed_bytes(tmp_path / "ranks") == packed_bytes(tmp_path / "single")


def test_an_error_is_printed_once(tmp_path: Path) -> None:
    results: Any = finish_ranks(start_ranks(tmp_path, [(main, ["eval", str(tmp_path / "missing")])] * 2))
    errors = "".join(result.stderr for result in results)
    assert {result.exit_code for result in results} == {1}
    assert errors.count("\n") == 1
    assert "missing" in errors


def test_masks_are_evaluated_and_written_with_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = make_shapes(tmp_path / "shapes")
    run = tmp_path / "unet"
    ca.train(unet_run(shapes, epochs=0.5), run, workers=0)
    capsys.readouterr()
    single = run_single(capsys, "eval", str(run), "--json")
    shutil.rmtree(run / "predictions")  # else the ranks would read what the single process has cached
    ranks = run_on_ranks(tmp_path, "eval", str(run), "--json")
    assert (ranks.exit_code, ranks.stdout) == (0, single.stdout)
    document = json.loads(single.stdout)
    assert (document["n"], document["instances"]["n"]) == (6, 12)
    images = str(shapes / "test" / "images")
    masks = []
    for runner, name in ((partial(run_single, capsys), "one"), (partial(run_on_ranks, tmp_path), "two")):
        out = tmp_path / name
        result = runner("predict", str(run), images, "--engine", "eager", "--json", "--out", str(out))
        documents = json.loads(result.stdout)
        assert [Path(document["file"]).name for document in documents] == [f"{n}.png" for n in range(6)]
        masks.append([Path(document["mask"]).read_bytes() for document in documents])
    assert masks[0] == masks[1]


def test_detectors_give_the_same_documents_and_pictures(
    detector_folder: Path, digit_boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = digit_boxes / "val" / "images"
    predict = ("predict", str(detector_folder), str(images), str(tmp_path / "none.png"), "--json", "--out")
    single = run_single(capsys, *predict, str(tmp_path / "single"))
    ranks = run_on_ranks(tmp_path, *predict, str(tmp_path / "ranks"))
    assert (ranks.exit_code, single.exit_code) == (1, 1)  # for the missing one
    assert ranks.stdout == single.stdout.replace(str(tmp_path / "single"), str(tmp_path / "ranks"))
    for picture in (tmp_path / "single").iterdir():
        assert picture.read_bytes() == (tmp_path / "ranks" / picture.name).read_bytes()
    for words in (["eval", str(detector_folder)], ["data", "check", f"folder:{digit_boxes}"]):
        single = run_single(capsys, *words, "--json")
        ranks = run_on_ranks(tmp_path, *words, "--json")
        assert (ranks.exit_code, ranks.stdout) == (0, single.stdout)
