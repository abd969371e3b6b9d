"""`convatlas show`: every form of the same report, and one line for an error."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from convatlas import models
from convatlas.cli.main import main


def show(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["show", *words]) == 0
    return capsys.readouterr().out


def test_the_table_has_stages_totals_and_principles(capsys: pytest.CaptureFixture[str]) -> None:
    text = show(capsys, "vgg16")
    assert text.startswith("vgg16, edition paper, input 3x224x224\n")
    assert re.search(r"^pool5 +MaxPool2d +512x7x7 .* 212 +32 ", text, re.MULTILINE)
    assert "multiply-adds 15,470,264,320; convolutions alone 15,346,630,656" in text
    assert "FLOPs are twice as many" in text
    assert "information through each cut" in text
    assert max(map(len, text.splitlines())) <= 120


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    document: dict[str, Any] = json.loads(show(capsys, "resnet50", "--json"))
    golden = models.golden_counts("resnet50")
    assert (document["model"], document["edition"], document["input"]) == ("resnet50", "paper", [3, 224, 224])
    assert (document["params"], document["macs"], document["flops"]) == (
        golden["params"],
        golden["macs"],
        2 * golden["macs"],
    )
    first = document["rows"][0]
    assert (first["path"], first["op"], first["output_shape"]) == ("conv1.conv", "Conv2d", [1, 64, 112, 112])
    assert (first["receptive_field"], first["stride"], first["params"]) == ([7, 7], [2, 2], 9408)
    assert sum(row["macs"] for row in document["rows"]) == document["macs"]


def test_depth_edition_and_input_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(
        show(capsys, "resnet50", "--edition", "torchvision", "--input", "1x96x64", "--depth", "1", "--json")
    )
    assert (document["edition"], document["input"]) == ("torchvision", [1, 96, 64])
    assert [row["path"] for row in document["rows"]][-1] == "fc"
    assert document["params"] == 25_557_032 - 2 * 64 * 49
    assert next(row for row in document["rows"] if row["path"] == "conv5_x")["output_shape"] == [
        1,
        2048,
        3,
        2,
    ]


def test_markdown_has_a_table_for_each_network(capsys: pytest.CaptureFixture[str]) -> None:
    text = show(capsys, "lenet5", "--markdown")
    assert text.startswith("# lenet5, edition paper, input 1x32x32\n\n| layer | op | output |")
    assert "| C1 | " in text


def test_two_networks_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    text = show(capsys, "resnet50", "--against", "resnet50:torchvision")
    assert re.search(
        r"^multiply-adds \* +3,857,973,248 +4,089,184,256 +\+231,211,008 +1\.06$", text, re.MULTILINE
    )
    assert re.search(r"^receptive field, pixels \* +483 +427 +-56 +0\.88$", text, re.MULTILINE)
    assert re.search(r"^stride 32 \* +7 +10 ", text, re.MULTILINE)
    assert re.search(r"^parameters +25,557,032 +25,557,032 +0 +1\.00$", text, re.MULTILINE)  # not marked
    assert re.search(r"^conv3_x \* ", text, re.MULTILINE)
    assert re.search(r"^conv2_x +Seq", text, re.MULTILINE)
    assert "* the networks differ; difference: the second minus the first" in text
    markdown = show(capsys, "resnet50", "--against", "resnet50:torchvision", "--markdown")
    assert r"| **multiply-adds \*** | **3,857,973,248** | **4,089,184,256** | **\+231,211,008** |" in markdown
    assert "| parameters | 25,557,032 | 25,557,032 | 0 |" in markdown
    document = json.loads(show(capsys, "resnet50", "--against", "vgg16", "--json"))
    assert document["against"]["model"] == "vgg16"
    assert "# resnet50 against vgg16" in show(capsys, "resnet50", "--against", "vgg16", "--markdown")


def test_pages_and_plots_are_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    plot = tmp_path / "a.png"
    assert show(capsys, "lenet5", "--html", str(page)) == f"wrote {page}\n"
    assert page.read_text().startswith("<!doctype html>")
    assert show(capsys, "lenet5", "--png", str(plot)) == f"wrote {plot}\n"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(tmp_path.iterdir()) == [page, plot]


def test_a_diagram_is_written_of_a_network_or_a_part_of_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "a.svg"
    assert show(capsys, "lenet5", "--svg", str(file)) == f"wrote {file}\n"
    assert "5×5 conv, 120" in file.read_text()
    show(capsys, "googlenet", "--svg", str(file), "--module", "inception_4a", "--input", "3x96x96")
    text = file.read_text()
    assert "inception_4a" in text
    assert "480 × 6 × 6" in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["resnet5"], 2, "unknown network 'resnet5': the nearest is 'resnet50'"),
        (
            ["resnet50", "--edition", "timm"],
            2,
            "unknown edition of resnet50 'timm': known are paper, torchvision",
        ),
        (["resnet50", "--against", "vgg16:timm"], 2, "unknown edition of vgg16 'timm'"),
        (
            ["resnet50", "--input", "3x224"],
            2,
            "--input is '3x224': expected channels, height and width, as 3x224x224",
        ),
        (["resnet50", "--input", "3x0x9"], 2, "--input is '3x0x9'"),
        (["vgg16", "--input", "3x20x20"], 2, "needs images of at least 32x32"),
        (
            ["lenet5", "--svg", "a.svg", "--module", "C2"],
            2,
            "unknown layer of lenet5 'C2': the nearest is 'S2'",
        ),
        (["lenet5", "--module", "C1"], 2, "--module names the part that --svg draws: add --svg FILE"),
        (["lenet5", "--svg", "a.svg", "--against", "vgg16"], 2, "--svg draws one network"),
        (["resnet50", "--depth", "0"], 2, "--depth should be 1 or more, not 0"),
        (["resnet50", "--depth", "deep"], 2, "--depth is 'deep': expected a whole number"),
        (["resnet50", "--json", "--html", "x.html"], 2, "--json and --html exclude each other: choose one"),
        (["lenet5", "--html", "nowhere/x.html"], 1, "nowhere/x.html: No such file or directory"),
    ],
)
def test_an_error_is_one_line(
    words: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show", *words]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_edits_stand_in_the_title_and_change_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("vgg11_bn", "--edit", "GlobalPoolingHead", "--edit", "SwapNorm(to=layer)")
    text = show(capsys, *words)
    assert text.startswith(
        "vgg11_bn, edition paper with GlobalPoolingHead() and SwapNorm(to=layer), input 3x224"
    )
    document = json.loads(show(capsys, *words, "--json"))
    assert document["edits"] == ["GlobalPoolingHead()", "SwapNorm(to=layer)"]
    assert document["rows"][-1]["params"] == 513 * 1000
    against = show(capsys, "vgg11_bn", "--edit", "RemoveNorm", "--against", "vgg11_bn")
    assert re.match(r" +vgg11_bn, edited +vgg11_bn +difference", against)
