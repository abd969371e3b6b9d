"""Modules of other libraries in engines and exports: several outputs, none, and failures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convatlas as ca
from convatlas.errors import UsageError, UserError
from convatlas.export import to_onnx
from convatlas.inference import onnx

IMAGES = torch.randn(3, 3, 8, 8)


class Returning(nn.Module):
    """A convolution whose pooled outputs are returned as `build` says."""

    def __init__(self, build: Any):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.build = build

    def forward(self, images: Tensor) -> Any:
        maps = self.conv(images)
        return self.build(maps, maps.mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda maps, logits: (logits, maps), "the logits are the first tensor of its tuple"),
        (lambda maps, logits: {"maps": maps, "logits": logits}, "the logits are 'logits' of its dict"),
        (lambda maps, logits: {"out": logits, "aux": maps}, "the logits are 'out' of its dict"),
    ],
)
def test_an_engine_says_which_of_several_outputs_it_gives(build: Any, why: str) -> None:
    module = Returning(build)
    engine = ca.inference.engine(module, IMAGES, "eager", "fp32")
    assert why in engine.why
    with torch.no_grad():
        torch.testing.assert_close(engine(IMAGES), module.conv(IMAGES).mean((2, 3)))


def test_an_engine_prints_as_one_line() -> None:
    engine = ca.inference.engine(Returning(lambda maps, logits: logits), IMAGES, "eager", "fp32")
    assert repr(engine) == "<Engine eager, fp32, for float32 images 3x8x8: as requested>"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda maps, logits: None, "Returning returns a NoneType without tensors: expected logits"),
        (lambda maps, logits: {"n": 3}, "Returning returns a dict without tensors"),
        (lambda maps, logits: logits.sum(), r"Returning returns a tensor of shape \(\) for one image"),
        (lambda maps, logits: logits.flatten(), r"a tensor of shape \(4,\) for one image: expected logits"),
    ],
)
def test_a_module_without_logits_is_refused(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ca.inference.engine(Returning(build), IMAGES, "eager")


def test_a_module_that_fails_on_the_example_is_named() -> None:
    with pytest.raises(UserError, match=r"Returning fails on an image of shape \(1, 8, 8\) .*RuntimeError"):
        ca.inference.engine(Returning(lambda maps, logits: logits), IMAGES[:, :1], "eager")


@pytest.mark.skipif(onnx.missing_requirement() is not None, reason="ONNX Runtime is not installed")
def test_the_main_output_is_exported(tmp_path: Path) -> None:
    import onnx as library

    module = Returning(lambda maps, logits: {"maps": maps, "logits": logits})
    to_onnx(module, IMAGES, tmp_path / "m.onnx")
    (logits,) = library.load(str(tmp_path / "m.onnx")).graph.output
    dims = logits.type.tensor_type.shape.dim
    assert (logits.name, dims[0].dim_param, dims[1].dim_value) == ("logits", "batch", 4)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]  # without classes no script
