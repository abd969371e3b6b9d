"""Every command takes and prints names that are no UTF-8, break lines, or look like markup."""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convatlas.cli.main import main
from convatlas.names import unescape_name

FOLDER = b"w\xe9 $x_{\x1b[31m"
CLASSES = (b"$\\bad{$", b"caf\xe9\n|`<script>[x](javascript:y)")
FILES = (b"caf\xe9_%d.png", b"a\n\x1b]0;x\x07%d.png", b"back\\slash\\x41%d.png", b"c:a|b`%d.png")


def run(*arguments: object, expected: int = 0) -> str:
    """The output of a command, which must end with `expected` and print no control character."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    stderr = io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = main([str(argument) for argument in arguments])
    text = stdout.buffer.getvalue().decode()
    assert code == expected, stderr.getvalue()
    assert all(line.isprintable() for line in (text + stderr.getvalue()).split("\n"))
    return text


def run_json(*arguments: object, expected: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", expected=expected))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Photos of two classes, and a run trained on them; all names are hostile."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path_factory.mktemp("names")) + b"/" + FOLDER))
    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        photos = folder / "photos" / os.fsdecode(name)
        photos.mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(100 * label, 100 * label + 120, (20, 20), np.uint8)
            file = os.fsdecode(FILES[number % 4] % number)
            Image.fromarray(pixels.astype(np.uint8)).save(photos / file, "png")
    data = f"folder:{folder / 'photos'}"
    settings = ("--epochs", 1, "--batch", 8, "--workers", 0, "--set", "precision=fp32")
    run("train", "lenet5", "--data", data, "--out", folder / "run", *settings)
    yield folder
    shutil.rmtree(folder)  # pytest would print the names of what it cannot remove


@pytest.fixture
def data(folder: Path) -> str:
    return f"folder:{folder / 'photos'}"


def is_png(file: Path) -> bool:
    with Image.open(file) as image:
        return image.format == "PNG"


def all_files(folder: Path) -> set[str]:
    return {str(file) for file in (folder / "photos").rglob("*.png")}


def test_data_check_names_every_file(folder: Path, data: str) -> None:
    broken = folder / "photos" / os.fsdecode(CLASSES[0]) / os.fsdecode(b"broken\xff\n.png")
    broken.write_bytes(b"no image")
    try:
        document = run_json("data", "check", data, expected=1)
        assert {unescape_name(entry["file"]) for entry in document["bad"]} == {str(broken)}
        run("data", "check", data, expected=1)
        listed = (folder / "photos" / "quarantine.jsonl").read_text()
        assert "broken\\\\xff\\\\x0a.png" in listed
    finally:
        broken.unlink()
        (folder / "photos" / "quarantine.jsonl").unlink(missing_ok=True)


def test_data_info_counts_and_draws(folder: Path, data: str) -> None:
    run("data", "info", data, "--model", "lenet5", "--png", folder / "sheet.png")
    assert is_png(folder / "sheet.png")
    assert set(run_json("data", "info", data)["classes"]) == {
        r"$\bad{$",
        r"caf\xe9\x0a|`<script>[x](javascript:y)",
    }


def test_a_split_names_every_file_and_is_trained_on(folder: Path, data: str) -> None:
    manifest = folder / "photos" / "split.csv"
    run("data", "split", data, "--out", manifest)
    with manifest.open() as lines:
        names = {unescape_name(row["file"]) for row in csv.DictReader(lines)}
    assert {str(folder / "photos" / name) for name in names} == all_files(folder)
    assert run_json("data", "check", f"manifest:{manifest}")["bad"] == []
    settings = ("--epochs", 1, "--batch", 8, "--workers", 0, "--set", "precision=fp32")
    out = folder / "tuned"
    run(
        "train",
        "lenet5",
        "--data",
        f"manifest:{manifest}",
        "--weights",
        folder / "run",
        "--out",
        out,
        *settings,
    )
    run("train", "--resume", out)


def test_a_packed_store_keeps_the_names(folder: Path, data: str) -> None:
    run("data", "pack", data, "--out", folder / "store", "--workers", 1)
    document = run_json("data", "info", f"packed:{folder / 'store'}")
    assert document["n"] == 24
    run("data", "check", f"packed:{folder / 'store'}")
    assert run_json("eval", folder / "run", "--data", f"packed:{folder / 'store'}")["n"] == 2


def test_a_run_is_continued_and_started_anew_by_its_data_path(folder: Path, data: str) -> None:
    run("train", "--resume", folder / "run")
    settings = ("--epochs", 1, "--batch", 8, "--workers", 0, "--set", "precision=fp32")
    run("train", "lenet5", "--data", data, "--out", folder / "run", *settings)
    run("train", folder / "run" / "run.json", "--out", folder / "again", "--workers", 0)
    run("compare", folder / "run", folder / "again")
    run_json("compare", folder / "run", folder / "again")


def test_no_name_is_markup_in_a_report(folder: Path) -> None:
    run("eval", folder / "run", "--out", folder / "evaluation")
    assert run_json("eval", folder / "run")["n"] == 2
    for report in (folder / "run" / "report.md", folder / "evaluation" / "report.md"):
        text = report.read_text()
        assert r"| \$\\bad{\$ |" in text
        assert r"| caf\\xe9\\x0a\|\`\<script\>\[x\](javascript:y) |" in text
        assert "<script>" not in text
    for picture in ("confusion.png", "batch.png", "curves.png"):
        assert is_png(folder / "run" / picture)


def test_predict_names_every_file(folder: Path) -> None:
    documents = run_json("predict", folder / "run", folder / "photos")
    assert {unescape_name(document["file"]) for document in documents} == all_files(folder)
    lines = run("predict", folder / "run", folder / "photos", "--jsonl").splitlines()
    assert [json.loads(line)["file"] for line in lines] == [document["file"] for document in documents]
    run("predict", folder / "run", folder / "photos")
    missing = os.fsdecode(b"no\xff\x1b.png")
    assert unescape_name(run_json("predict", folder / "run", missing, expected=1)[0]["file"]) == missing


def test_visualize_draws(folder: Path) -> None:
    image = min(all_files(folder))  # of the class that looks like mathematics
    document = run_json("visualize", folder / "run", image, "--out", folder / "pictures")
    assert len(document["files"]) == 2


@pytest.mark.parametrize("kind", ["safetensors", "onnx", "hub"])
def test_export_writes(folder: Path, kind: str) -> None:
    pytest.importorskip({"safetensors": "safetensors", "onnx": "onnxruntime", "hub": "huggingface_hub"}[kind])
    run("export", folder / "run", "--to", kind, "--out", folder / f"exported.{kind}")
    if kind == "hub":
        card = (folder / "exported.hub" / "README.md").read_text()
        assert "<script>" not in card.split("---")[2]
