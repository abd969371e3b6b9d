"""`train NAME --recipe paper --epochs 1 --data digits` for every classifier, at full size, until the first
loss."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

import convatlas as ca
from convatlas import models

CLASSIFIERS = [name for name in ca.list_models() if models.get_entry(name).task == "classification"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_its_first_loss_is_finite(name: str, tmp_path: Path) -> None:
    options = ["--recipe", "paper", "--epochs", "1", "--data", "digits", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "convatlas", "train", name, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            match = re.search(r"first loss (\S+),", line)
            if match:
                process.kill()
                assert math.isfinite(float(match[1]))
                # the output names the change of the images' size
                assert any("resized to" in line or "padded to" in line for line in lines)
                return
        pytest.fail("".join(lines))
