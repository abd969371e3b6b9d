"""Prediction from files, folders and patterns, as a table or as they come."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from convatlas.classifier import Classifier
from convatlas.cli.main import main
from convatlas.data.images.decode import open_image
from convatlas.data.images.prefetch import decode_ahead
from convatlas.errors import UserError


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, digits: Tensor) -> Path:
    """Twelve images in two folders, a broken image, and a text file."""
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(digits[:12]):
        file = folder / f"set{number % 2}" / f"{number:02d}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(file)
    (folder / "set1" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than a beginning")
    (folder / "notes.txt").write_text("no image")
    return folder


def predict(
    run: Path, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, list[dict[str, object]], str]:
    code = main(["predict", str(run), *words, "--jsonl", "--engine", "eager"])
    captured = capsys.readouterr()
    return code, [json.loads(line) for line in captured.out.splitlines()], captured.err


def test_folders_files_and_patterns_are_expanded(
    trained_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, documents, stderr = predict(trained_run, capsys, str(photos))
    assert code == 1
    assert [Path(str(document["file"])).relative_to(photos).parts for document in documents] == [
        *[("set0", f"{number:02d}.png") for number in range(0, 12, 2)],
        *[("set1", f"{number:02d}.png") for number in range(1, 12, 2)],
        ("set1", "broken.jpg"),
    ]
    assert [set(document) for document in documents] == [{"file", "classes"}] * 12 + [{"file", "error"}]
    assert "12 of 13 images, " in stderr
    assert "convatlas: engine eager: as requested" in stderr
    code, documents, _ = predict(
        trained_run, capsys, str(photos / "**" / "0[0-3].png"), str(photos / "set1" / "11.png")
    )
    assert code == 0
    assert [Path(str(document["file"])).name for document in documents] == [
        "00.png",
        "02.png",
        "01.png",
        "03.png",
        "11.png",
    ]


def test_missing_files_are_reported_and_the_others_classified(
    trained_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = photos / "empty"
    empty.mkdir(exist_ok=True)
    code, documents, _ = predict(
        trained_run, capsys, "nowhere.png", str(empty), "no*thing.png", str(photos / "set0" / "00.png")
    )
    assert code == 1
    assert [document.get("error") for document in documents[:3]] == [
        "nowhere.png: No such file or directory",
        f"{empty}: a folder without images",
        "no*thing.png: No such file or directory",
    ]
    assert "classes" in documents[3]


def test_a_file_whose_name_looks_like_a_pattern_is_read(
    trained_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = photos / "set0" / "[odd].png"
    file.write_bytes((photos / "set0" / "00.png").read_bytes())
    try:
        code, documents, _ = predict(trained_run, capsys, str(file))
    finally:
        file.unlink()
    assert (code, [document["file"] for document in documents]) == (0, [str(file)])


def test_the_table_has_a_row_for_each_image(
    trained_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(trained_run), str(photos / "set0"), "--top", "2", "--engine", "eager"]) == 0
    head, *rows, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["image", "class", "%", "class", "2", "%"]
    assert len(rows) == 6
    assert last.startswith("6 of 6 images, ")
    assert last.endswith(" a second, the start of the engine included")


def test_predictions_come_in_order(trained: Classifier, photos: Path) -> None:
    files = [photos / f"set{number % 2}" / f"{number:02d}.png" for number in range(12)] * 6
    predictions = list(trained.predict_iter(files, top=1, engine="eager", batch=5))
    assert [file for file, _ in predictions] == [str(file) for file in files]
    assert [classes for _, classes in predictions[:12]] == [classes for _, classes in predictions[60:]]
    images = torch.stack([trained.metadata.preprocessing.transform(open_image(file)) for file in files[:12]])
    expected = trained.logits(images).argmax(1)
    assert [classes[0][0] for _, classes in predictions[:12] if not isinstance(classes, UserError)] == [
        trained.metadata.classes[i] for i in expected
    ]


def test_files_are_decoded_a_limited_number_ahead(photos: Path) -> None:
    requested: list[int] = []

    def endless() -> Iterator[Path]:
        for number in count():
            requested.append(number)
            yield photos / "set0" / "00.png"

    stream = decode_ahead(endless(), lambda picture: torch.zeros(1), 8)
    for _ in range(3):
        next(stream)
    time.sleep(0.05)
    assert len(requested) <= 8 + 3
    stream.close()  # type: ignore[attr-defined]


def test_a_missing_engine_is_one_sentence(
    trained_run: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convatlas.inference.openvino.find_spec", lambda name: None)
    assert main(["predict", str(trained_run), str(photos / "set0"), "--engine", "openvino"]) == 1
    assert (
        capsys.readouterr().err
        == "convatlas: the engine openvino needs OpenVINO: pip install 'convatlas[openvino]'\n"
    )


def test_a_closed_pipe_ends_it_quietly(trained_run: Path, photos: Path) -> None:
    files = " ".join([str(photos / "set0")] * 200)
    command = (
        f"{sys.executable} -m convatlas predict {trained_run} {files} --jsonl --engine eager | head -n 1"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
