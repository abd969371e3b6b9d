"""Images and figures of visualizations, and the command that writes them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convatlas.cli.main import main
from convatlas.visualization import plots


def test_an_overlay_is_brightest_at_the_maps_maximum() -> None:
    image = torch.full((1, 40, 60), 100, dtype=torch.uint8)
    cam = torch.zeros(4, 6)
    cam[3, 1] = 2.0
    brightness = plots.overlay(image, cam).astype(int).sum(2)
    assert brightness.shape == (40, 60)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    assert row >= 30
    assert 10 <= column < 20


def test_an_overlay_of_a_zero_map_is_even() -> None:
    image = torch.full((1, 40, 60), 100, dtype=torch.uint8)
    blended = plots.overlay(image, torch.zeros(4, 6))
    assert (blended == blended[0, 0]).all()


def test_an_explanation_is_a_png_whatever_a_file_is_called() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    titled = plots.TitledImage(image, "$x^2 \x1b]52;c; <b> 图 " + "long " * 30)
    explanation = plots.Explanation("title", titled, [titled, titled], titled, titled)
    assert Image.open(io.BytesIO(plots.draw_explanation(explanation))).format == "PNG"


def test_a_small_image_is_enlarged_by_a_whole_factor_under_a_smooth_map() -> None:
    image = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    cam = torch.zeros(2, 2)
    blended = plots.overlay(image, cam, side=33)
    assert blended.shape == (32, 32, 3)
    assert np.array_equal(blended, plots.overlay(image, cam).repeat(4, 0).repeat(4, 1))


def test_the_command_writes_a_figure_of_each_image(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((20, 30), 90, np.uint8)).save(tmp_path / folder / "seven.png")
    (tmp_path / "broken.png").write_text("no image")
    images = [str(tmp_path / name) for name in ("a/seven.png", "broken.png", "b/seven.png")]
    out = tmp_path / "out"
    assert main(["visualize", str(run / "model.safetensors"), *images, "--out", str(out)]) == 1
    assert "broken.png: not a readable" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["filters.png", "seven-2.png", "seven.png"]
    with Image.open(out / "seven.png") as figure:
        assert figure.width > 1000


def test_the_command_writes_the_top_activations_of_the_data(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--module", "relu3_2", "--map", "1", "--out", str(out), "--json"]
    assert main(["visualize", str(run), *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["layer"] == "relu3_2"
    assert sorted(document["files"]) == sorted(str(path) for path in out.iterdir())
    assert len(document["files"]) == 2


def test_the_command_writes_beside_the_weights_by_default(run: Path) -> None:
    before = set(run.iterdir())
    assert main(["visualize", str(run), "--module", "relu3_2", "--map", "1"]) == 0
    (folder,) = set(run.iterdir()) - before
    assert (folder / "filters.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "digit 11"], "unknown class 'digit 11': the nearest is 'digit 1'"),
        (["--module", "relu9"], "unknown module 'relu9': the nearest is 'relu"),
        (["--module", "fc7"], "fc7 gives a tensor of shape"),
        (["--map", "4000"], "there is no map 4000"),
        (["--split", "trial"], "unknown split 'trial'"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(
    options: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(run.iterdir())
    assert main(["visualize", str(run), *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert set(run.iterdir()) == before
