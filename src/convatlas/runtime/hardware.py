"""What a device can do at most: as its maker publishes it, or measured here in some seconds.

FLOP/s are those of dense matrix products, two for a multiply-add; bytes a second of memory count what is read and what is written,
those of a link go one way.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from convatlas.errors import unknown_name
from convatlas.runtime.device import Precision
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.memory import memory_bytes, resident_bytes

SECONDS_PER_RATE = 0.7  # for each rate that is measured
DEFAULT_BANDWIDTH = 1.25e9  # 10 Gbit/s: between machines of which nothing else is known
CUDA_CONTEXT_BYTES = 1_000_000_000  # what CUDA, its libraries and their workspaces take of a GPU before the network does; ours, rounded up


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """Peak rates of one device, and how it is tied to others of its kind.

    `flops`: FLOP/s by precision, of those that it multiplies in hardware. `bandwidth`, `link` and `network` in bytes a second: of its
    memory, to another device of the same server, to one of another. `rest`: bytes of its memory that are gone before the network comes.
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

    def supported_precision(self, wanted: Precision) -> Precision:
        """`wanted`, or fp32 where the device does not multiply it in hardware."""
        return wanted if wanted in self.flops else "fp32"

    def ring_bandwidth(self, count: int) -> float:
        """Bytes a second, one way, of the slowest link in a ring through `count` devices."""
        return self.intra_node_bandwidth if count <= self.devices_per_node else min(self.intra_node_bandwidth, self.inter_node_bandwidth)


# Peaks without sparsity. The network is that of the maker's own server for eight, divided by its devices; 10 Gbit/s where there is none.
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
        source="NVIDIA H100 datasheet (SXM5, 80 GB; half of what it prints with sparsity); network: DGX H100, 400 Gbit/s a GPU",
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
    """A device of the table, in any case of letters. Raises UsageError for another, naming the nearest."""
    key = name.lower().replace(" ", "")
    if key not in DEVICE_SPECS:
        raise unknown_name("device", name, ["here", *DEVICE_SPECS])
    return DEVICE_SPECS[key]


def available_memory(device: torch.device, beside: int = 1) -> tuple[int, int]:
    """Bytes of the device's memory that one of `beside` processes may have, and those of them that are gone already."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory, CUDA_CONTEXT_BYTES
    return memory_bytes() // beside, resident_bytes()


def measure_device(device: torch.device, precision: Precision, ranks: Ranks = SINGLE_PROCESS, exchanged: int = 0) -> DeviceSpec:
    """This machine's device, with all the threads of this process: the best of many products of large matrices, and of many copies of a
    large tensor. Ranks measure at the same time, and what ties them together is the exchange of `exchanged` bytes of gradients.

    What ties one process to others is not measured: the machines are taken to be joined by 10 Gbit/s.
    """
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side, size = (8192, 1 << 30) if cuda else (2048, 1 << 28)
    memory, rest = available_memory(device, ranks.local_world_size)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty(side, side, dtype=dtype, device=device)
    flops = 2 * side**3 / _best_rate(lambda: torch.mm(a, b, out=product), device)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * size / _best_rate(lambda: target.copy_(source), device)
    name = torch.cuda.get_device_name(device) if cuda else f"this machine's CPU, {torch.get_num_threads()} threads"
    return DeviceSpec(
        name=name if ranks.world_size == 1 else f"{name}, for one of {ranks.world_size} ranks",
        origin="measured",
        source="measured here; between machines 10 Gbit/s, assumed",
        flops={precision: flops},
        bandwidth=bandwidth,
        memory=memory,
        reserved_bytes=rest,
        intra_node_bandwidth=_measure_link(ranks, exchanged, device) if ranks.world_size > 1 else DEFAULT_BANDWIDTH,
        devices_per_node=ranks.local_world_size,
    )


def _measure_link(ranks: Ranks, size: int, device: torch.device) -> float:
    """Bytes a second that each rank sends around the ring when they exchange `size` bytes of gradients, and do nothing else."""
    layer = nn.Linear(size // 4, 1, bias=False, device=device)
    function, one, times = ranks.wrap_ddp(layer), torch.ones(1, size // 4, device=device), list[float]()
    for _ in range(10):
        ranks.all_reduce_max(0)
        began = time.perf_counter()
        function(one).backward()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return 2 * (ranks.world_size - 1) / ranks.world_size * size / statistics.median(times)


def _best_rate(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the quickest of many."""
    work()
    best, end = math.inf, time.perf_counter() + SECONDS_PER_RATE
    while best == math.inf or time.perf_counter() < end:
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


def synchronize(device: torch.device) -> None:
    """Until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
