"""The floor of a training step: its multiply-adds at the rate of the largest matrix product, and then the
bytes that have to pass through memory, at the rate of the largest copy.

The bytes, by convention, in maps (all values of one feature map, for all images):

- a batch norm moves 5: it must wait for the statistics of the whole batch, so forward reads its input and
  writes its output, and backward reads the gradient and the input and writes a gradient;
- an addition of two maps moves 2: forward reads the second summand, backward the second gradient where the
  branches meet;
- a pooling moves its input and its output twice: forward reads one and writes the other, backward the
  reverse;
- convolutions and linear layers move none, since their bytes are part of what their rate was measured with;
  activations and all that works on single values move none either, as part of the pass that made their input.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convatlas.analysis.report import ReportData
from convatlas.analysis.trace.operations import Operation

BATCH_NORM_MAPS = 5
ADDITION_MAPS = 2


@dataclass(frozen=True)
class Floor:
    """The least work of a training step for one image, and the rates at which it is done."""

    flops: float
    bytes: float
    peak_flops: float  # FLOP/s
    bandwidth: float  # bytes read and bytes written, per second

    @property
    def product_seconds(self) -> float:
        return self.flops / self.peak_flops

    @property
    def byte_seconds(self) -> float:
        return self.bytes / self.bandwidth

    def document(self, batch: int) -> dict[str, float]:
        """`floor` of a `bench train` document: milliseconds of a step of `batch` images."""
        return {
            "bytes_per_image": self.bytes,
            "product_ms": 1e3 * batch * self.product_seconds,
            "byte_ms": 1e3 * batch * self.byte_seconds,
            "ms": 1e3 * batch * (self.product_seconds + self.byte_seconds),
        }

    def add_shares(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add to each row, in percent: `share`, its multiply-adds of the largest product; `bandwidth_share`,
        its bytes of the bandwidth; and `floor_share`, the floor's time of the step's."""
        seconds = {
            "share": self.product_seconds,
            "bandwidth_share": self.byte_seconds,
            "floor_share": self.product_seconds + self.byte_seconds,
        }
        for row in rows:
            rate = row["images_per_second"]
            row |= {name: None if rate is None else 100 * rate * least for name, least in seconds.items()}


def training_floor(report: ReportData, peak_flops: float, bandwidth: float, value_bytes: int) -> Floor:
    """The floor of training the network that `report` analyses, with values of `value_bytes` bytes.

    The multiply-adds of a step are three times those of a forward pass.
    """
    operations = [operation for call in report.trace.calls for operation in call.operations]
    return Floor(6 * report.macs, value_bytes * moved_values(operations), peak_flops, bandwidth)


def moved_values(operations: Sequence[Operation]) -> int:
    """The values that a training step reads and writes, by the convention above, for one image."""
    sizes = {operation.index: math.prod(operation.output_shape) for operation in operations}
    return sum(_moved_values(operation, sizes) for operation in operations)


def _moved_values(operation: Operation, sizes: Mapping[int, int]) -> int:
    name, size = operation.name, sizes[operation.index]
    inputs = [sizes.get(source, 0) for source in operation.sources]
    if "batch_norm" in name:
        return BATCH_NORM_MAPS * size
    if name in ("add", "add_") and len(inputs) > 1 and min(inputs) == size:  # else a bias
        return ADDITION_MAPS * size
    if "pool" in name or (name == "mean" and operation.output_shape):
        return 2 * (sum(inputs) + size)
    return 0


def describe_floor(document: Mapping[str, Any]) -> str:
    """The floor of a `bench train` document in a sentence."""
    floor = document["floor"]
    megabytes = document["batch"] * floor["bytes_per_image"] / 1e6
    return (
        f"The floor of a step is {floor['ms']:,.1f} ms: {floor['product_ms']:,.1f} ms of multiply-adds at "
        f"the rate of the largest matrix product, {document['peak_flops'] / 1e12:.2f} TFLOP/s, and "
        f"{floor['byte_ms']:,.1f} ms for the {megabytes:,.0f} MB that batch norm, additions and pooling have "
        f"to move, at the {document['bandwidth'] / 1e9:.0f} GB/s of the largest copy."
    )
