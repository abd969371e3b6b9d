"""What a person is warned of before a run, and what the report compares its accuracy with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import convatlas as ca
from convatlas.cli.main import main
from convatlas.errors import UsageError
from convatlas.recipes import Epochs
from convatlas.training.resolve import resolve_run
from convatlas.training.run import Run
from convatlas.training.warnings import run_warnings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 30, 6 and 3 training images of three classes, grey squares of noise."""
    root = tmp_path_factory.mktemp("uneven") / "set"
    rng = np.random.default_rng(0)
    for name, count in (("cat", 30), ("dog", 6), ("eel", 3)):
        for split, images in (("train", count), ("val", 2), ("test", count)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(images):
                Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"{number}.png")
    return root


def warnings_of(run: Run) -> str:
    resolved = resolve_run(run, CPU)
    return "\n".join(run_warnings(resolved.run, resolved.dataset))


def test_digits_by_quick_give_no_warning() -> None:
    assert warnings_of(Run(model="lenet5", data="digits")) == ""


def test_few_steps_few_images_and_small_splits_are_warned_of(uneven: Path) -> None:
    run = Run(model="lenet5", data=f"folder:{uneven}")
    warnings = warnings_of(run.replace(recipe=run.recipe.replace(budget=Epochs(12))))
    assert "only 12 steps" in warnings
    assert "--epochs 100" in warnings
    assert "class eel has 3 training images" in warnings
    assert "the val split has 6 images" in warnings
    assert "only" not in warnings_of(run)  # 500 steps


def test_the_banner_the_report_and_the_last_line_say_what_to_make_of_the_result(
    uneven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["train", "lenet5", "--data", f"folder:{uneven}", "--epochs", "2", "--out", str(out)]
    assert main([*command, "--set", "recipe.class_weights=balanced", "recipe.sampling=balanced"]) == 0
    output = capsys.readouterr().out
    report = (out / "report.md").read_text()
    for text in (output, report):
        assert "class eel has 3 training images" in text
        assert "always predicting the largest class, cat (76.92 %)" in text
        assert "alanced accuracy" in text
        assert "macro F1" in text
    metrics = ca.load(out).metadata.metrics
    assert metrics["test_majority_share"] == pytest.approx(100 * 30 / 39)
    assert 0 <= metrics["test_macro_f1"] <= 100


def test_balanced_class_weights_give_every_class_the_same_weight_in_all(uneven: Path) -> None:
    run = Run(model="lenet5", data=f"folder:{uneven}")
    resolved = resolve_run(run.replace(recipe=run.recipe.replace(class_weights="balanced")), CPU).run
    assert resolved.recipe.class_weights == {"cat": 39 / 90, "dog": 39 / 18, "eel": 39 / 9}
    assert resolve_run(resolved, CPU).run == resolved


def test_weights_are_given_by_name_and_others_are_1(uneven: Path) -> None:
    run = Run(model="lenet5", data=f"folder:{uneven}")

    def weights(**by_name: float) -> object:
        recipe = run.recipe.replace(class_weights=by_name)
        return resolve_run(run.replace(recipe=recipe), CPU).run.recipe.class_weights

    assert weights(eel=10) == {"cat": 1.0, "dog": 1.0, "eel": 10}
    with pytest.raises(UsageError, match=r"class in recipe.class_weights 'ell': the nearest is 'eel'"):
        weights(ell=10)
    with pytest.raises(UsageError, match="gives eel 0: a weight should be above 0"):
        weights(eel=0)
