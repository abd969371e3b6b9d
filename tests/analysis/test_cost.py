"""Multiply-adds, memory and traffic against torch's own counters and against real runs."""

import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from convatlas import models
from convatlas.analysis import analyze
from convatlas.analysis.trace.shape_cache import ShapeCacheMode


@pytest.mark.parametrize("name", models.list_models())
def test_multiply_adds_are_half_of_what_torchs_flop_counter_counts(name: str) -> None:
    with torch.device("meta"):
        model, shape = models.create_model(name).eval(), models.get_entry(name).input
        with torch.no_grad(), ShapeCacheMode(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, *shape))
    report = analyze(model, shape)
    assert 2 * report.macs == report.flops == counter.get_total_flops()
    assert report.conv_macs <= report.macs
    assert sum(row.params for row in report.rows) + sum(n for _, n in report.trace.uncalled) == report.params


REAL = ["lenet5", "alexnet", "resnet50", "resnetv2_110_cifar", "inception_v3", "googlenet", "se_resnet50", "mobilenet_v1", "shufflenet_v2"]


def images(name: str) -> Tensor:
    channels, height, _ = models.get_entry(name).input
    side = {"inception_v3": 107, "alexnet": 227}.get(name, min(height, 96))
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def storages(tensors: Any) -> dict[int, int]:
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tree_leaves(tensors) if isinstance(t, Tensor)}


@pytest.mark.parametrize("name", REAL)
def test_training_memory_is_what_autograd_keeps_of_a_real_run(name: str) -> None:
    model, x = models.create_model(name).train(), images(name)
    kept: list[Tensor] = []  # held, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(x)
    own = storages([*model.parameters(), *model.buffers()])
    measured = sum(size for address, size in storages(kept).items() if address not in own)
    assert out.requires_grad
    assert analyze(model, x).training_bytes == pytest.approx(measured, rel=0.05)


class Live(TorchDispatchMode):
    """Most bytes of tensors alive at one time, of a real run: all results that something still refers to, counted anew after each
    operator."""

    def __init__(self, model: nn.Module, x: Tensor):
        super().__init__()  # type: ignore[no-untyped-call]
        self.own = storages([*model.parameters(), *model.buffers()])
        self.alive = [weakref.ref(x)]
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.alive = [ref for ref in self.alive if ref() is not None]
        self.alive += [weakref.ref(t) for t in tree_leaves(out) if isinstance(t, Tensor)]
        alive = storages([ref() for ref in self.alive])
        self.peak = max(self.peak, sum(size for address, size in alive.items() if address not in self.own))
        return out


@pytest.mark.parametrize("name", REAL)
def test_peak_inference_memory_is_that_of_a_real_runs_live_tensors(name: str) -> None:
    model, x = models.create_model(name).eval(), images(name)
    with torch.no_grad(), Live(model, x) as live:
        model(x)
    assert analyze(model, x).inference_bytes == pytest.approx(live.peak, rel=0.1)


def test_vgg_16_makes_the_floats_of_its_layers_and_no_more() -> None:
    with torch.device("meta"):
        report = analyze(models.create_model("vgg16"), (3, 224, 224))
    assert report.activation_bytes == 4 * 15_237_608


def test_bytes_of_one_convolution_by_hand() -> None:
    report = analyze(nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10))
    assert report.read_bytes == 4 * (300 + 8 * 27 + 8)
    assert report.written_bytes == 4 * 800
    assert report.intensity == pytest.approx(2 * 800 * 27 / (4 * (300 + 224 + 800)))
    assert report.inference_bytes == 4 * (300 + 800)
    assert report.size_bytes == {"fp32": 4 * 224, "bf16": 2 * 224, "int8": 224}


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 12))
def test_a_convolutions_multiply_adds_follow_the_formula(groups: int, a: int, b: int, kernel: int, side: int) -> None:
    layer = nn.Conv2d(groups * a, groups * b, kernel, padding=kernel, groups=groups, device="meta")
    report = analyze(layer, (groups * a, side, side))
    out = side + 2 * kernel - kernel + 1
    assert report.macs == groups * a * b * kernel**2 * out**2


def test_shared_parameters_count_once_and_their_use_each_time() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    report = analyze(nn.Sequential(conv, nn.ReLU(), conv), (4, 8, 8))
    assert report.params == 144
    assert report.macs == 2 * 144 * 64
    assert [(row.path, row.calls) for row in report.rows] == [("0", 2), ("1", 1)]


def test_the_rows_of_any_depth_add_up_to_the_totals() -> None:
    with torch.device("meta"):
        report = analyze(models.create_model("googlenet", aux=False), (3, 224, 224))
    for depth in (1, 2, 3, None):
        rows = report.at_depth(depth)
        assert sum(row.macs for row in rows) == report.macs
        assert sum(row.params for row in rows) == report.params
        assert sum(row.read_bytes + row.written_bytes for row in rows) == report.read_bytes + report.written_bytes
    assert len(report.at_depth(1)) < len(report.at_depth(2)) < len(report.at_depth(None))
    inception = report.module("inception_3a")
    assert inception.output_shape == [1, 256, 28, 28]
    assert inception.macs == next(row.macs for row in report.at_depth(1) if row.path == "inception_3a")


def test_functional_and_in_place_operators_are_seen() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(5, 2, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            y = nn.functional.conv2d(x, self.weight, stride=2, padding=1).relu_()
            y = y.mul_(2).add_(1)
            return nn.functional.interpolate(y, scale_factor=2).mean((2, 3)) @ torch.zeros(5, 3)

    report = analyze(Net(), (2, 8, 8))
    assert report.macs == 5 * 2 * 9 * 16 + 5 * 3
    assert report.notes == []
    assert report.rows[0].op == "Net"


def test_a_thousand_layers_and_fifty_million_parameters_take_little_memory() -> None:
    """Above `import torch`; 74 MB of it is what torch itself imports at the first operator on meta tensors, 17 MB the thousand layers.
    torch imports dill where another library has brought it, 2 MB that are neither's business here."""
    program = """
import sys
sys.modules["dill"] = None
import torch
def peak():  # of this process alone; what getrusage says begins with its parent's
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
before = peak()
from convatlas import analyze, create_model, models
reports = []
for name in ("vgg19", "resnet1202_cifar"):
    with torch.device("meta"):
        model = create_model(name)
    reports.append(analyze(model, models.get_entry(name).input))
print(peak() - before)
assert all(report.training_bytes and report.to_json() for report in reports)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    analysed, everything = map(float, done.stdout.split())
    assert 20 < analysed < 122
    assert everything < 140
