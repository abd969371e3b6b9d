"""The plan of a run, as a value."""

from typing import Any, Literal

from convatlas.runtime.device import Precision
from convatlas.runtime.hardware import DeviceSpec
from convatlas.storage.records import Record
from convatlas.training.planning.memory import USABLE, MemoryEstimate
from convatlas.training.planning.scaling import OVERLAPPED_SHARE, ScalingRow
from convatlas.training.planning.step_time import StepTime
from convatlas.training.planning.workload import ModelCost, Workload

# Where a step's time comes from: measured here; by the roofline, of which the share was measured here or is
# assumed
Origin = Literal["measured", "roofline_calibrated", "roofline_assumed"]


class StepPlan(Record, frozen=True, kw_only=True):
    """The time of a step.

    `share` of the roofline is attained; the measurement is None where nothing could be measured.
    """

    origin: Origin
    share: float
    pace: StepTime
    overlapped: float = OVERLAPPED_SHARE
    measured_images: int | None
    measured_seconds: float | None


class DataPlan(Record, frozen=True, kw_only=True):
    """The images that the devices take and that this machine loads; None where its data was not read."""

    bytes_per_step: int
    images_per_second_needed: float
    loader_images_per_second: float | None
    machines_needed: int | None
    sufficient: bool | None


class Plan(Record, frozen=True, kw_only=True):
    """A run on `count` devices (`requested`), and on others (`rows`)."""

    run_id: str
    model: str
    data_set: str
    recipe: str
    precision: Precision
    cost: ModelCost
    work: Workload
    count: int
    device: DeviceSpec
    step: StepPlan
    memory: MemoryEstimate
    largest_batch: int
    data: DataPlan
    requested: ScalingRow
    rows: list[ScalingRow]
    notes: list[str]

    @property
    def usable_memory(self) -> float:
        """Bytes of the device's memory that a run can use."""
        return USABLE * self.device.memory

    def document(self) -> dict[str, Any]:
        """The JSON document of `plan`."""
        memory = self.memory._asdict() | {
            "training": self.memory.training,
            "total": self.memory.total,
            "of": self.device.memory,
            "usable": self.usable_memory,
        }
        return {
            "run_id": self.run_id,
            "model": self.model,
            "data_set": self.data_set,
            "recipe": self.recipe,
            "precision": self.precision,
            "batch": self.work.batch,
            "micro_batch": self.work.micro_batch,
            "steps": self.work.steps,
            "steps_per_epoch": self.work.steps_per_epoch,
            "macs": self.cost.macs,
            "params": self.cost.params,
            "count": self.count,
            "device": self.device,
            "step": self.step,
            "memory": memory,
            "fits": self.requested.fits,
            "largest_batch": self.largest_batch,
            "images_per_second": self.requested.images_per_second,
            "seconds": self.requested.seconds,
            "device_hours": self.requested.device_hours,
            "data": self.data,
            "requested": self.requested,
            "rows": self.rows,
            "notes": self.notes,
        }
