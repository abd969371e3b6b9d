"""The package is typed for its users: a script of theirs passes a strict type checker."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import convatlas as ca

ROOT = Path(__file__).parent.parent
PACKAGE = Path(ca.__file__).parent

SCRIPT = """
from pathlib import Path
from typing import Any, assert_type

import torch
from torch import Tensor

import convatlas as ca

assert_type(ca.list_models("resnet*"), list[str])
assert_type(ca.editions("googlenet"), list[str])
model = ca.create_model("resnet18", num_classes=3)
images = torch.randn(2, 3, 64, 64)
assert_type(model.training_outputs(images), dict[str, Tensor])
report = ca.analyze(model, (3, 64, 64))
assert_type(report.macs, int)
assert_type(report.to_markdown(), str)
classifier = ca.Classifier.from_module(model, ["a", "b", "c"], 64, mean=0.5, std=(0.2, 0.2, 0.2))
assert_type(classifier.save("a.safetensors"), Path)
assert_type(classifier.predict("a.png"), list[list[tuple[str, float]]])
assert_type(classifier.predict(["a.png", images[0], b""], top=1), list[list[tuple[str, float]]])
assert_type(ca.load("a.safetensors"), ca.Classifier)
engine = ca.inference.engine(model, example=images)
assert_type(engine(images), Tensor)
assert_type(ca.visualization.features(model, images, ["conv3_x"]), dict[str, Tensor])
assert_type(ca.export.export_classifier(classifier, "onnx", "m.onnx", opset=18), dict[str, Any])
assert_type(ca.boxes.encode(images, images), Tensor)
assert_type(ca.boxes.BoxRegressor().fit(images, images, images).predict(images, images), Tensor)
run = ca.Run(model="lenet5", data="digits", seed=1)
assert_type(ca.train(run).metrics, dict[str, Any])
assert_type(ca.evaluate("runs/r20", split="test"), dict[str, Any])
assert_type(ca.load_weights(model, "r18.pth"), str)
"""


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in settings["package-data"]["*"]


@pytest.mark.slow
def test_a_users_script_passes_a_strict_type_checker(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    command += ["--cache-dir", str(tmp_path / "cache"), "--config-file", os.devnull, str(script)]
    environment = os.environ | {"MYPYPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
