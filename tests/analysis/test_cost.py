"""Multiply-adds, memory and traffic, against torch's counters and against real runs."""

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
def test_multiply_adds_are_half_of_torchs_flop_count(name: str) -> None:
    shape = models.get_entry(name).input
    with torch.device("meta"):
        model = models.create_model(name).eval()
        with torch.no_grad(), ShapeCacheMode(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, *shape))
    report = analyze(model, shape)
    assert 2 * report.macs == report.flops == counter.get_total_flops()
    assert report.conv_macs <= report.macs
    assert sum(row.params for row in report.rows) + sum(n for _, n in report.trace.uncalled) == report.params


REAL_RUNS = [
    *("lenet5", "alexnet", "resnet50", "resnetv2_110_cifar", "inception_v3"),
    *("googlenet", "se_resnet50", "mobilenet_v1", "shufflenet_v2"),
]


def images(name: str) -> Tensor:
    channels, height, _ = models.get_entry(name).input
    side = {"inception_v3": 107, "alexnet": 227}.get(name, min(height, 96))
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def storages(tensors: Any) -> dict[int, int]:
    """Bytes of each storage, by address."""
    leaves = (leaf.untyped_storage() for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))
    return {storage.data_ptr(): storage.nbytes() for storage in leaves}


@pytest.mark.parametrize("name", REAL_RUNS)
def test_training_memory_is_what_autograd_saves_in_a_real_run(name: str) -> None:
    model = models.create_model(name).train()
    x = images(name)
    saved: list[Tensor] = []  # alive, so that no address is reused

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    model_storages = storages([*model.parameters(), *model.buffers()])
    measured = sum(size for address, size in storages(saved).items() if address not in model_storages)
    assert output.requires_grad
    assert analyze(model, x).training_bytes == pytest.approx(measured, rel=0.05)


class PeakMemoryMode(TorchDispatchMode):
    """The peak of the bytes of live tensors in a real run.

    After each operator, all results that something still refers to are counted.
    """

    def __init__(self, model: nn.Module, x: Tensor):
        super().__init__()  # type: ignore[no-untyped-call]
        self.model_storages = storages([*model.parameters(), *model.buffers()])
        self.references = [weakref.ref(x)]
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.references = [reference for reference in self.references if reference() is not None]
        self.references += [weakref.ref(leaf) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        live = storages([reference() for reference in self.references])
        live_bytes = sum(size for address, size in live.items() if address not in self.model_storages)
        self.peak = max(self.peak, live_bytes)
        return output


@pytest.mark.parametrize("name", REAL_RUNS)
def test_peak_inference_memory_is_that_of_a_real_runs_live_tensors(name: str) -> None:
    model = models.create_model(name).eval()
    x = images(name)
    with torch.no_grad(), PeakMemoryMode(model, x) as mode:
        model(x)
    assert analyze(model, x).inference_bytes == pytest.approx(mode.peak, rel=0.1)


def test_vgg16s_activations_are_the_outputs_of_its_layers() -> None:
    with torch.device("meta"):
        report = analyze(models.create_model("vgg16"), (3, 224, 224))
    assert report.activation_bytes == 4 * 15_237_608


def test_one_convolutions_bytes_are_those_counted_by_hand() -> None:
    report = analyze(nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10))
    assert report.read_bytes == 4 * (300 + 8 * 27 + 8)
    assert report.written_bytes == 4 * 800
    assert report.intensity == pytest.approx(2 * 800 * 27 / (4 * (300 + 224 + 800)))
    assert report.inference_bytes == 4 * (300 + 800)
    assert report.size_bytes == {"fp32": 4 * 224, "bf16": 2 * 224, "int8": 224}


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 12))
def test_a_convolutions_multiply_adds_follow_the_formula(
    groups: int, group_in: int, group_out: int, kernel: int, side: int
) -> None:
    in_channels, out_channels = groups * group_in, groups * group_out
    layer = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel, groups=groups, device="meta")
    report = analyze(layer, (in_channels, side, side))
    out_side = side + 2 * kernel - kernel + 1
    assert report.macs == groups * group_in * group_out * kernel**2 * out_side**2


def test_shared_parameters_count_once_but_each_use_costs() -> None:
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
        assert sum(row.read_bytes for row in rows) == report.read_bytes
        assert sum(row.written_bytes for row in rows) == report.written_bytes
    assert len(report.at_depth(1)) < len(report.at_depth(2)) < len(report.at_depth(None))
    inception = report.module("inception_3a")
    assert inception.output_shape == [1, 256, 28, 28]
    assert inception.macs == next(row.macs for row in report.at_depth(1) if row.path == "inception_3a")


def test_functional_and_in_place_operators_are_counted() -> None:
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


def test_large_networks_take_little_memory() -> None:
    """Memory above `import torch`, for 143 million parameters and for a thousand layers.

    torch imports 74 MB at the first operator on meta tensors; the thousand layers take 20 MB. dill is
    blocked: torch imports it where another library has installed it, 2 MB that the analysis does not need.
    """
    program = """
import sys
sys.modules["dill"] = None
import torch
def peak():  # of this process alone; that of getrusage starts with the parent's
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
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    analyze_megabytes, total_megabytes = map(float, process.stdout.split())
    assert 20 < analyze_megabytes < 126
    assert total_megabytes < 144
