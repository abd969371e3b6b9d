"""`plan` in words: what the run is, the device, memory, data, then a table by the number of devices."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json
from convatlas.cli.output import display, paragraph, print_json, print_table
from convatlas.errors import printable
from convatlas.formatting import format_duration, format_si


@dataclass
class Plan:
    """Say what a run needs before it starts: memory, the largest batch that fits, time and device-hours on 1 to 4,096 devices."""

    run: Annotated[Positional[Path], arg(metavar="RUN.json", help="A run.json, or a run's folder.")]
    device: Annotated[str, arg(metavar="NAME", help="here (measured), or a100-80gb, h100-sxm, v100-16gb, t4, rtx4090.")] = "here"
    count: Annotated[int | None, arg(metavar="N", help="How many such devices; as many as there are ranks, one without torchrun.")] = None
    json: Json = False

    def __call__(self) -> None:
        from convatlas.runtime.progress import is_main_process
        from convatlas.training.planning import plan

        document = plan.plan_run(self.run, self.device, self.count, display(True).say)
        if not is_main_process():
            return
        if self.json:
            print_json(document)
        else:
            print_plan(document)


PARTS = ("weights", "gradients", "optimizer", "average", "copies", "activations", "passing", "batch")
NAMES = {"optimizer": "optimiser", "copies": "copies of weights", "passing": "gradients of activations", "batch": "images"}


def print_plan(document: dict[str, Any]) -> None:
    """Print the document of `plan`."""
    for name, text in _lines(document).items():
        paragraph(f"{name:<9} {printable(text)}", 10)
    print()
    heads = (
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
    cells = [_cells(row) for row in document["rows"]]
    print_table(heads, cells, right=heads[:-1])
    paragraph(
        "all-reduce: bytes that each device sends a step; an epoch and to the end with validation, without start-up and saving. "
        f"More than {max(row.devices for row in document['rows'] if not row.arithmetic)} devices (*): arithmetic.",
        0,
    )
    for note in document["notes"]:
        paragraph(f"note: {printable(note)}", 6)


def _lines(d: dict[str, Any]) -> dict[str, str]:
    rates, asked, memory, data, step = d["device"], d["asked"], d["memory"], d["data"], d["step"]
    peak = format_si(rates.flops[d["precision"]], "FLOP/s")
    share = f"{100 * step['share']:.0f} %"
    took = f"{step['measured_images']} images in {_short(step['measured_seconds'] or 0)}"
    attained = f"from the peaks and the analysis, of which {share} is attained"
    how = {
        "measured": f"{took}, measured; {share} of what the peaks allow",
        "roofline, its share measured here": f"{attained}, as by this run here ({took})",
        "roofline, its share assumed": f"{attained}: assumed, as of GPUs and ResNet-50",
    }[step["origin"]]
    parts = ", ".join(f"{NAMES.get(name, name)} {format_si(memory[name], 'B')}" for name in PARTS if memory[name])
    fits = "" if d["fits"] else f"; does not fit into {format_si(memory['usable'], 'B')}"
    needed, loader = data["images_per_second_needed"], data["loader_images_per_second"]
    if loader is None:
        meets = "what the loader gives is not known"
    else:
        meets = f"this machine loads {loader:,.0f}: " + (
            "enough" if data["meets"] else f"too few, it takes {data['loaders']:,} such machines"
        )
    devices = "1 device" if d["count"] == 1 else f"{d['count']:,} devices"
    return {
        "run": f"{d['run_id'][:8]}: {d['model']} on {d['data_set']}, recipe {d['recipe']}, {d['precision']}; "
        f"{d['steps']:,} steps of {d['batch']:,} images, {d['steps_per_epoch']:,} an epoch",
        "device": f"{rates.name}: {peak}, {format_si(rates.bandwidth, 'B/s')}, {format_si(rates.memory, 'B')}; {rates.origin} ({rates.source})",
        "a pass": how,
        "memory": f"{format_si(memory['total'], 'B')} a device: {format_si(memory['rest'], 'B')} at rest, {parts}; "
        f"evaluation {format_si(memory['evaluation'], 'B')} in place of the last{fits}",
        "fits": f"at most {d['largest_batch']:,} images at once (micro_batch; {100 * memory['usable'] / memory['of']:.0f} % of the memory)"
        if d["largest_batch"]
        else "not even one image: take a device with more memory",
        "data": f"{format_si(data['bytes_per_step'], 'B')} a step; {needed:,.0f} images/s wanted by {devices}; {meets}",
        "in all": f"{format_duration(asked.seconds)} on {devices}, {_hours(asked.device_hours)} device-hours",
    }


def _cells(row: Any) -> tuple[str, ...]:
    return (
        f"{row.devices:,}{'*' if row.extrapolated else ''}",
        f"{row.images:,}" + (f" in {row.passes}" if row.passes > 1 else ""),
        f"{row.images_per_second:,.0f}",
        f"{100 * row.efficiency:.0f} %",
        format_si(row.all_reduce_bytes, "B"),
        _long(row.epoch_seconds),
        _long(row.seconds),
        _hours(row.device_hours),
        format_si(row.memory_bytes, "B") + ("" if row.fits else " (too much)"),
        row.limited_by,
    )


def _long(seconds: float) -> str:
    return _short(seconds) if seconds < 10 else format_duration(seconds)


def _short(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2g} s"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"
