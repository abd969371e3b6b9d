"""Peak rates of devices: published by their makers, or measured on this machine in some seconds.

FLOP/s are those of dense matrix products, two per multiply-add. The bandwidth of memory counts the bytes that
are read and those that are written; the bandwidth of a link is in one direction.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from convatlas.errors import unknown_name
from convatlas.runtime.device import Precision
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.memory import memory_bytes, resident_bytes

SECONDS_PER_RATE = 0.7  # for each measured rate
DEFAULT_BANDWIDTH = 1.25e9  # bytes per second, 10 Gbit/s: between machines with an unknown network
# GPU memory that CUDA, its libraries and their workspaces take before the network; measured, rounded up
CUDA_CONTEXT_BYTES = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """Peak rates of one device, and its links to others of its kind.

    `flops`: FLOP/s of each precision that it multiplies in hardware. `bandwidth`, `intra_node_bandwidth` and
    `inter_node_bandwidth`, in bytes per second: of its memory, to another device of the same server, and to a
    device of another server. `memory`: bytes. `reserved_bytes`: the memory that is in use before the network
    takes any.
    """

    name: str
    origin: Literal["measured", "published"]
    source: str
    flops: Mapping[Precision, float]
    bandwidth: float
    memory: int
    reserved_bytes: int = CUDA_CONTEXT_BYTES
    intra_node_bandwidth: float = DEFAULT_BANDWIDTH
    devices_per_node: int = 8
    inter_node_bandwidth: float = DEFAULT_BANDWIDTH

    def supported_precision(self, precision: Precision) -> Precision:
        """`precision`, or fp32 where the device does not multiply it in hardware."""
        return precision if precision in self.flops else "fp32"

    def ring_bandwidth(self, num_devices: int) -> float:
        """Bytes per second, in one direction, of the slowest link in a ring through `num_devices` devices."""
        if num_devices <= self.devices_per_node:
            return self.intra_node_bandwidth
        return min(self.intra_node_bandwidth, self.inter_node_bandwidth)


# Peaks without sparsity. The bandwidth between servers is that of the maker's own server for eight devices,
# divided by their number; 10 Gbit/s where the maker has no such server.
DEVICE_SPECS = {
    "a100-80gb": DeviceSpec(
        name="A100-80GB",
        origin="published",
        source="NVIDIA A100 datasheet (SXM4, 80 GB); network: DGX A100, 200 Gbit/s a GPU",
        flops={"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
        bandwidth=2.039e12,
        memory=80_000_000_000,
        intra_node_bandwidth=300e9,
        inter_node_bandwidth=25e9,
    ),
    "h100-sxm": DeviceSpec(
        name="H100-SXM",
        origin="published",
        source="NVIDIA H100 datasheet (SXM5, 80 GB; half of what it prints with sparsity); "
        "network: DGX H100, 400 Gbit/s a GPU",
        flops={"fp32": 67e12, "tf32": 494.5e12, "bf16": 989.5e12},
        bandwidth=3.35e12,
        memory=80_000_000_000,
        intra_node_bandwidth=450e9,
        inter_node_bandwidth=50e9,
    ),
    "v100-16gb": DeviceSpec(
        name="V100-16GB",
        origin="published",
        source="NVIDIA V100 datasheet (SXM2, 16 GB); network: DGX-1, four times 100 Gbit/s for eight GPUs",
        flops={"fp32": 15.7e12},
        bandwidth=900e9,
        memory=16_000_000_000,
        intra_node_bandwidth=150e9,
        inter_node_bandwidth=6.25e9,
    ),
    "t4": DeviceSpec(
        name="T4",
        origin="published",
        source="NVIDIA T4 datasheet (PCIe 3.0 x16); network assumed",
        flops={"fp32": 8.1e12},
        bandwidth=320e9,
        memory=16_000_000_000,
        intra_node_bandwidth=16e9,
    ),
    "rtx4090": DeviceSpec(
        name="RTX 4090",
        origin="published",
        source="NVIDIA Ada GPU architecture whitepaper (bf16 with fp32 sums; PCIe 4.0 x16); network assumed",
        flops={"fp32": 82.6e12, "tf32": 82.6e12, "bf16": 165.2e12},
        bandwidth=1.008e12,
        memory=24_000_000_000,
        intra_node_bandwidth=32e9,
    ),
}


def get_device_spec(name: str) -> DeviceSpec:
    """The published device of that name, in any case.

    Raises UsageError that names the nearest for another.
    """
    key = name.lower().replace(" ", "")
    if key not in DEVICE_SPECS:
        raise unknown_name("device", name, ["here", *DEVICE_SPECS])
    return DEVICE_SPECS[key]


def available_memory(device: torch.device, num_processes: int = 1) -> tuple[int, int]:
    """Bytes of the device's memory: those that one of `num_processes` processes may use, those in use now."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory, CUDA_CONTEXT_BYTES
    return memory_bytes() // num_processes, resident_bytes()


def measure_device(
    device: torch.device, precision: Precision, ranks: Ranks = SINGLE_PROCESS, exchange_bytes: int = 0
) -> DeviceSpec:
    """Measure this machine's device with all threads of this process: the best of many products of large
    matrices, and the best of many copies of a large tensor.

    Several ranks measure at the same time, and their link is measured by an exchange of `exchange_bytes`
    bytes of gradients. For a single process no link is measured. Different machines are assumed to be linked
    by 10 Gbit/s.
    """
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    max_side, copy_bytes = (8192, 1 << 30) if cuda else (2048, 1 << 28)
    memory, reserved_bytes = available_memory(device, ranks.local_world_size)
    flops = _measure_product(max_side, dtype, device)
    source = torch.ones(copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * copy_bytes / _min_seconds(lambda: target.copy_(source), device)
    distributed = ranks.world_size > 1
    link_bandwidth = _measure_link(ranks, exchange_bytes, device) if distributed else DEFAULT_BANDWIDTH
    cpu_name = f"this machine's CPU, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device) if cuda else cpu_name
    return DeviceSpec(
        name=f"{name}, for one of {ranks.world_size} ranks" if distributed else name,
        origin="measured",
        source="measured here; between machines 10 Gbit/s, assumed",
        flops={precision: flops},
        bandwidth=bandwidth,
        memory=memory,
        reserved_bytes=reserved_bytes,
        intra_node_bandwidth=link_bandwidth,
        devices_per_node=ranks.local_world_size,
    )


def _measure_product(max_side: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of products of square matrices of `max_side` rows, or of as many as take a tenth of the time: a
    CPU without units for the precision would take minutes for the largest."""
    side = max_side // 16
    while True:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        product = torch.empty(side, side, dtype=dtype, device=device)
        multiply = partial(torch.mm, a, b, out=product)
        multiply()  # warm-up
        synchronize(device)
        start = time.perf_counter()
        multiply()
        synchronize(device)
        if side == max_side or time.perf_counter() - start > SECONDS_PER_RATE / 10:
            return 2 * side**3 / _min_seconds(multiply, device)
        side *= 2


def _measure_link(ranks: Ranks, exchange_bytes: int, device: torch.device) -> float:
    """Bytes per second that each rank sends around the ring when the ranks exchange `exchange_bytes` bytes of
    gradients and do nothing else."""
    num_weights = exchange_bytes // 4
    layer = nn.Linear(num_weights, 1, bias=False, device=device)
    wrapped_layer = ranks.wrap_ddp(layer)
    inputs = torch.ones(1, num_weights, device=device)
    seconds: list[float] = []
    for _ in range(10):
        ranks.all_reduce_max(0)  # all ranks start together
        start = time.perf_counter()
        wrapped_layer(inputs).backward()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * (ranks.world_size - 1) / ranks.world_size * exchange_bytes / statistics.median(seconds)


def _min_seconds(work: Callable[[], object], device: torch.device) -> float:
    """The seconds of the fastest of many calls of `work`."""
    work()  # warm-up
    best = math.inf
    end = time.perf_counter() + SECONDS_PER_RATE
    while best == math.inf or time.perf_counter() < end:
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all submitted work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
