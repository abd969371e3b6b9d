"""`plan`: the run, the device, memory, data, then a table by the number of devices."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json
from convatlas.cli.output import display, paragraph, print_json, print_table
from convatlas.errors import printable
from convatlas.formatting import format_duration, format_si

if TYPE_CHECKING:
    from convatlas.training.planning.plan import Plan as RunPlan
    from convatlas.training.planning.scaling import ScalingRow

# The parts of the memory estimate, and their names where those are not their own
MEMORY_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "average": "average",
    "weight_copies": "copies of weights",
    "activations": "activations",
    "activation_gradients": "gradients of activations",
    "batch": "images",
}
COLUMNS = (
    "devices",
    "images each",
    "images/s",
    "efficiency",
    "all-reduce",
    "an epoch",
    "to the end",
    "device-hours",
    "memory",
    "limited by",
)


@dataclass
class Plan:
    """Estimate what a run needs: memory, the largest batch, and time by the number of devices."""

    run: Annotated[Positional[Path], arg(metavar="RUN.json", help="A run.json, or a run's folder.")]
    device: Annotated[
        str, arg(metavar="NAME", help="here (measured), or a100-80gb, h100-sxm, v100-16gb, t4, rtx4090.")
    ] = "here"
    count: Annotated[
        int | None,
        arg(metavar="N", help="How many such devices; as many as there are ranks, one without torchrun."),
    ] = None
    json: Json = False

    def __call__(self) -> None:
        from convatlas.runtime.progress import is_main_process
        from convatlas.training.planning.plan_run import plan_run

        plan = plan_run(self.run, self.device, self.count, display(True).say)
        if not is_main_process():
            return
        if self.json:
            print_json(plan.document())
        else:
            print_plan(plan)


def print_plan(plan: "RunPlan") -> None:
    lines = {
        "run": f"{plan.run_id[:8]}: {plan.model} on {plan.data_set}, recipe {plan.recipe}, {plan.precision}; "
        f"{plan.work.steps:,} steps of {plan.work.batch:,} images, {plan.work.steps_per_epoch:,} an epoch",
        "device": _device(plan),
        "a pass": _pass(plan),
        "memory": _memory(plan),
        "fits": _largest_batch(plan),
        "data": _data(plan),
        "in all": f"{format_duration(plan.requested.seconds)} on {_devices(plan)}, "
        f"{_hours(plan.requested.device_hours)} device-hours",
    }
    for name, text in lines.items():
        paragraph(f"{name:<9} {printable(text)}", 10)
    print()
    print_table(COLUMNS, [_cells(row) for row in plan.rows], right=COLUMNS[:-1])
    text = (
        "all-reduce: bytes that each device sends a step; an epoch and to the end with validation, without "
        "start-up and saving."
    )
    if any(row.extrapolated for row in plan.rows):
        largest = max(row.devices for row in plan.rows if not row.extrapolated)
        text += f" More than {largest} devices (*): extrapolated."
    paragraph(text, 0)
    for note in plan.notes:
        paragraph(f"note: {printable(note)}", 6)


def _devices(plan: "RunPlan") -> str:
    return "1 device" if plan.count == 1 else f"{plan.count:,} devices"


def _device(plan: "RunPlan") -> str:
    device = plan.device
    peak = format_si(device.flops[plan.precision], "FLOP/s")
    bandwidth = format_si(device.bandwidth, "B/s")
    return (
        f"{device.name}: {peak}, {bandwidth}, {format_si(device.memory, 'B')}; {device.origin} "
        f"({device.source})"
    )


def _pass(plan: "RunPlan") -> str:
    step = plan.step
    share = f"{100 * step.share:.0f} %"
    measurement = f"{step.measured_images} images in {_short_duration(step.measured_seconds or 0)}"
    if step.origin == "measured":
        return f"{measurement}, measured; {share} of what the peaks allow"
    by_roofline = f"from the peaks and the analysis, of which {share} is attained"
    if step.origin == "roofline_calibrated":
        return f"{by_roofline}, as by this run here ({measurement})"
    return f"{by_roofline}: assumed, as by GPUs with ResNet-50"


def _memory(plan: "RunPlan") -> str:
    memory = plan.memory
    values = memory._asdict()
    parts = ", ".join(
        f"{name} {format_si(values[key], 'B')}" for key, name in MEMORY_PARTS.items() if values[key]
    )
    fits = "" if plan.requested.fits else f"; does not fit into {format_si(plan.usable_memory, 'B')}"
    return (
        f"{format_si(memory.total, 'B')} a device: {format_si(memory.reserved, 'B')} in use before, {parts}; "
        f"evaluation {format_si(memory.evaluation, 'B')} in place of the last{fits}"
    )


def _largest_batch(plan: "RunPlan") -> str:
    if not plan.largest_batch:
        return "not even one image: take a device with more memory"
    share = 100 * plan.usable_memory / plan.device.memory
    return f"at most {plan.largest_batch:,} images at once (micro_batch; {share:.0f} % of the memory)"


def _data(plan: "RunPlan") -> str:
    data = plan.data
    if data.loader_images_per_second is None or data.machines_needed is None:
        loading = "what the loader gives is not known"
    else:
        verdict = "enough" if data.sufficient else f"too few, it takes {data.machines_needed:,} such machines"
        loading = f"this machine loads {data.loader_images_per_second:,.0f}: {verdict}"
    step_bytes = format_si(data.bytes_per_step, "B")
    return (
        f"{step_bytes} a step; {data.images_per_second_needed:,.0f} images/s needed by {_devices(plan)}; "
        f"{loading}"
    )


def _cells(row: "ScalingRow") -> tuple[str, ...]:
    return (
        f"{row.devices:,}{'*' if row.extrapolated else ''}",
        f"{row.images:,}" + (f" in {row.passes}" if row.passes > 1 else ""),
        f"{row.images_per_second:,.0f}",
        f"{100 * row.efficiency:.0f} %",
        format_si(row.all_reduce_bytes, "B"),
        _long_duration(row.epoch_seconds),
        _long_duration(row.seconds),
        _hours(row.device_hours),
        format_si(row.memory_bytes, "B") + ("" if row.fits else " (too much)"),
        row.limited_by,
    )


def _long_duration(seconds: float) -> str:
    return _short_duration(seconds) if seconds < 10 else format_duration(seconds)


def _short_duration(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2g} s"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"
