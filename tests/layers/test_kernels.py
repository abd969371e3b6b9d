"""The kernels are compiled once, and training goes on without them where that cannot be done."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from convatlas.layers import fused_batch_norm, kernels
from convatlas.layers.kernels import Kernels

NORM = nn.BatchNorm2d(1)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_loaded() -> None:
    kernels._loaded.clear()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replaces the machine's compiler by a shell script."""

    def install(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "g++").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "g++").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return install


def choose(expected: str | None) -> Kernels | None:
    """The chosen kernels; `expected` is in the reason why there are none."""
    reasons: list[str] = []
    chosen = fused_batch_norm.choose_kernels(NORM, CPU, reasons.append)
    assert (chosen is None) == (expected is not None)
    assert [expected in reason for reason in reasons] == ([True] if expected else [])  # type: ignore[operator]
    return chosen


def cached_libraries() -> list[Path]:
    return list(Path(os.environ["CONVATLAS_CACHE"]).glob("kernels/*/*.so"))


def test_the_compiler_runs_once_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path))
    lines: list[str] = []
    chosen = fused_batch_norm.choose_kernels(NORM, CPU, pytest.fail, lines.append)
    assert [line.startswith("convatlas: compiling kernels for this CPU, once") for line in lines] == [True]
    assert chosen is not None
    assert chosen.compiler
    kernels._loaded.clear()
    assert fused_batch_norm.choose_kernels(NORM, CPU, pytest.fail, pytest.fail) is not None


def test_a_damaged_library_is_compiled_again() -> None:
    choose(None)
    (library,) = cached_libraries()
    content = library.read_bytes()
    library.unlink()
    library.write_bytes(content[:-1000])
    kernels._loaded.clear()
    choose(None)
    assert library.read_bytes() != content[:-1000]


def test_without_a_compiler_the_kernels_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    choose("training takes longer, with the kernels of torch: no C++ compiler is installed (g++ or clang++)")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "[ $1 = --version ] && echo g++ 1.0 && exit\necho 'g++: error: unknown -std' >&2; exit 1",
            "unknown -std",
        ),
        ("[ $1 = --version ] && echo g++ 1.0 && exit\nkill $$", "exit -15"),
        (
            "[ $1 = --version ] && echo g++ 1.0 && exit\nfor o; do :; done; echo no library > $o",
            "cannot be loaded",
        ),
        ("sleep 60", "timed out"),
    ],
    ids=["too old", "killed", "writes no library", "hangs"],
)
def test_a_compiler_that_fails_is_one_line(
    compiler: Callable[[str], None], script: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "COMPILE_SECONDS", 1.0)
    compiler(script)
    choose(reason)


def test_kernels_that_compute_something_else_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forward(self: Kernels, x: torch.Tensor, residual: object, y: torch.Tensor, *rest: object) -> None:
        y.copy_(x)

    monkeypatch.setattr(Kernels, "forward", forward)
    choose("computes other values than torch")


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "file"))
    choose(None)


def test_a_network_without_batch_norm_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert fused_batch_norm.choose_kernels(nn.Conv2d(1, 1, 1), CPU, pytest.fail) is None
