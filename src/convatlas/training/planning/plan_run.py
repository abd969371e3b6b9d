"""Plan a run on this machine, which is measured, or on a device by its published rates."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from convatlas import models
from convatlas.data import Dataset
from convatlas.errors import UsageError, UserError
from convatlas.formatting import describe_edits
from convatlas.runtime.compilation import should_compile
from convatlas.runtime.device import Precision, best_precision, select_device
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.runtime.distributed.rendezvous import init_ranks
from convatlas.runtime.hardware import DeviceSpec, get_device_spec, measure_device
from convatlas.runtime.memory import tune_malloc
from convatlas.runtime.runtime import Runtime
from convatlas.training.options import open_run_file
from convatlas.training.planning.memory import USABLE, estimate_memory, max_micro_batch
from convatlas.training.planning.micro_batches import check_micro_batches
from convatlas.training.planning.plan import DataPlan, Plan, StepPlan
from convatlas.training.planning.profiler import StepProfile, profile_loader, profile_steps
from convatlas.training.planning.scaling import (
    required_loading_rate,
    scaling_table,
)
from convatlas.training.planning.step_time import (
    ASSUMED_SHARE,
    LoaderRate,
    roofline_step_time,
    training_roofline,
)
from convatlas.training.planning.workload import ModelCost, model_cost, workload
from convatlas.training.resolve import resolve_run
from convatlas.training.run import Run


def plan_run(path: Path, device: str, count: int | None, say: Callable[[str], None]) -> Plan:
    """Plan the run of a `run.json` or a run's folder.

    `device` is `here` or the name of a published device, `count` how many (None: as many as there are ranks);
    `say` is called with what is being done. Under torchrun the ranks measure together, and a device here is
    one rank's part of the machine.

    Raises UsageError for an unknown device, a count below 1, a file that is no run; and as `resolve_run`.
    """
    if count is not None and count < 1:
        raise UsageError(f"--count should be 1 or more, not {count}")
    published = None if device == "here" else get_device_spec(device)
    tune_malloc()
    with init_ranks() as ranks:
        requested = open_run_file(path).run
        say("convatlas: measuring this machine, passes of the run and the loading of its data: about 10 s")
        devices = count or ranks.world_size
        machine = _measure(requested, published, ranks, devices)
        if published is None and machine.profile is not None:
            return _plan_here(machine, devices)
        return _plan_by_roofline(requested, machine, published, devices)


def open_data_if_present(run: Run, device: torch.device) -> tuple[Run, Dataset | None, str]:
    """The complete run and its data. A complete run whose data cannot be opened here is planned without it:
    then why not.

    Raises as `resolve_run` for a run that is not complete.
    """
    try:
        resolved = resolve_run(run, device)
    except UserError as error:
        if run.data.content is None:
            raise
        precision = best_precision(device) if run.precision == "auto" else run.precision
        return run.replace(precision=precision), None, f"the data is not read: {error}"
    return resolved.run, resolved.dataset, ""


class _Machine(NamedTuple):
    """The run, and what was measured of it on this machine."""

    run: Run
    precision: Precision
    cost: ModelCost
    device: DeviceSpec
    loader: LoaderRate | None
    profile: StepProfile | None
    notes: list[str]

    @property
    def share(self) -> float | None:
        """The share of the roofline that the passes attained."""
        if self.profile is None:
            return None
        least = training_roofline(self.cost, self.device, self.profile.images)
        return min(1.0, least / self.profile.seconds)


def _measure(requested: Run, published: DeviceSpec | None, ranks: Ranks, devices: int) -> _Machine:
    device = select_device(ranks=ranks)
    run, dataset, note = open_data_if_present(requested, device)
    with torch.device("meta"):
        network = models.build(run.model)
    for world_size in {ranks.world_size, devices}:
        check_micro_batches(run, network, world_size)
    loader = None
    if dataset is not None:
        rates = ranks.all_gather(profile_loader(run, dataset, device, ranks))
        loader = min(rates, key=lambda rate: rate.rate)
    precision: Precision = "fp32" if run.precision == "auto" else run.precision
    # tf32 is planned for other devices, and cannot be measured on a CPU
    measurable: Precision = (
        "fp32" if published and precision == "tf32" and device.type == "cpu" else precision
    )
    runtime = Runtime(device, measurable, ranks=ranks)
    cost = model_cost(run, measurable)
    spec = ranks.all_gather(measure_device(device, measurable, ranks, 4 * cost.trainable))[0]
    profile = profile_steps(run, runtime, cost, spec)
    return _Machine(run, precision, cost, spec, loader, profile, [note] if note else [])


def _plan_here(machine: _Machine, count: int) -> Plan:
    """A plan from this machine's measurements."""
    run, cost, profile = machine.run, machine.cost, machine.profile
    assert profile is not None
    compiled = run.compile
    if compiled == "auto":
        compiled = should_compile(select_device(), 3.0 * cost.macs * run.recipe.batch * run.steps)
    notes = list(machine.notes)
    if compiled:
        notes.append("measured without compiling: train would compile this run, and be faster")
    step = StepPlan(
        origin="measured",
        share=machine.share or 1.0,
        pace=profile.step_time,
        measured_images=profile.images,
        measured_seconds=profile.seconds,
    )
    return _plan(machine, machine.device, machine.precision, cost, step, count, notes, here=True)


def _plan_by_roofline(requested: Run, machine: _Machine, published: DeviceSpec | None, count: int) -> Plan:
    """A plan from peak rates: those of a published device, or of this machine where a pass does not fit."""
    run, cost, profile = machine.run, machine.cost, machine.profile
    precision = machine.precision
    device = machine.device
    notes = list(machine.notes)
    if published is not None:
        device = published
        preferred: Precision = precision
        if requested.precision == "auto":
            preferred = "bf16" if "bf16" in device.flops else "fp32"
        precision = device.supported_precision(preferred)
        if precision != machine.precision:
            notes.append(
                f"planned in {precision}, which {device.name} multiplies in hardware; the run says "
                f"{machine.precision}"
            )
        cost = model_cost(run, precision)
    calibrated = machine.share is not None and machine.share < ASSUMED_SHARE
    share = min(machine.share or 1.0, ASSUMED_SHARE)
    step = StepPlan(
        origin="roofline_calibrated" if calibrated else "roofline_assumed",
        share=share,
        pace=roofline_step_time(cost, device, workload(run).micro_batch, share),
        measured_images=profile.images if profile else None,
        measured_seconds=profile.seconds if profile else None,
    )
    return _plan(machine, device, precision, cost, step, count, notes, here=published is None)


def _plan(
    machine: _Machine,
    device: DeviceSpec,
    precision: Precision,
    cost: ModelCost,
    step: StepPlan,
    count: int,
    notes: list[str],
    here: bool,
) -> Plan:
    run = machine.run
    work = workload(run)
    loader = machine.loader
    if count > work.batch:
        notes.append(
            f"a batch of {work.batch} gives an image to no more than {work.batch} devices: the others have "
            "nothing to do"
        )
    rows = scaling_table(cost, work, step.pace, device, count, loader if here else None)
    requested = next(row for row in rows if row.devices == count)
    needed = required_loading_rate(requested, work)
    micro_batch = min(requested.images, work.micro_batch)
    reserved = device.reserved_bytes
    return Plan(
        run_id=run.id,
        model=f"{run.model.name}{describe_edits(run.model.edits)}",
        data_set=run.data.name,
        recipe=run.recipe.name,
        precision=precision,
        cost=cost,
        work=work,
        count=count,
        device=device,
        step=step,
        memory=estimate_memory(cost, reserved, micro_batch, requested.images, work.evaluation_batch),
        largest_batch=max_micro_batch(cost, reserved, USABLE * device.memory),
        data=DataPlan(
            bytes_per_step=work.batch * cost.image_bytes,
            images_per_second_needed=needed,
            loader_images_per_second=loader.rate if loader else None,
            machines_needed=math.ceil(needed / loader.rate) if loader else None,
            sufficient=loader.rate * (count if here else 1) >= needed if loader else None,
        ),
        requested=requested,
        rows=rows,
        notes=notes,
    )
