"""The plan of a run: its data opened, this machine measured or a device's published rates taken, the arithmetic done; as one document."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from convatlas.data import Dataset
from convatlas.errors import UsageError, UserError, printable
from convatlas.runtime import hardware as devices
from convatlas.runtime.compilation import should_compile
from convatlas.runtime.device import Precision, best_precision, select_device
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.runtime.distributed.rendezvous import init_ranks
from convatlas.runtime.hardware import DeviceSpec
from convatlas.runtime.memory import tune_malloc
from convatlas.runtime.runtime import Runtime
from convatlas.training import run as runs
from convatlas.training.planning import scaling
from convatlas.training.planning.profiler import profile_loader, profile_steps
from convatlas.training.planning.step_time import ASSUMED_SHARE, roofline_step_time, training_roofline
from convatlas.training.planning.workload import model_cost, workload
from convatlas.training.resolve import resolve_run
from convatlas.training.run import Run


def read(path: Path) -> Run:
    """The run of a `run.json`, or of the folder that holds one. Raises UsageError for what is neither."""
    file = path / "run.json" if path.is_dir() else path
    try:
        return runs.read_run_file(file.read_bytes(), str(file)).run
    except OSError as error:
        raise UsageError(f"cannot read {printable(file)} ({error.strerror}): expected a run.json, or a run's folder") from None


def open_data_if_present(run: Run, device: torch.device) -> tuple[Run, Dataset | None, str]:
    """The complete run and its data; a complete run whose data cannot be opened here is planned without it, and why is said.

    Raises as `complete` for a run that is not complete.
    """
    try:
        whole, dataset = resolve_run(run, device)
    except UserError as error:
        if run.data.content is None:
            raise
        precision = best_precision(device) if run.precision == "auto" else run.precision
        return run.replace(precision=precision), None, f"the data is not read: {error}"
    return whole, dataset, ""


def plan_run(path: Path, wanted: str, count: int | None, say: Callable[[str], None]) -> dict[str, Any]:
    """The document of `plan`. `wanted` is `here` or a device of the table, `count` how many (None: as many as there are ranks); `say` tells
    a person what is going on. Under torchrun the ranks measure together, and a device here is what one of them has of the machine.

    Raises UsageError for a device that is unknown, a count below 1, a file that is no run; and as `complete`.
    """
    if count is not None and count < 1:
        raise UsageError(f"--count should be 1 or more, not {count}")
    with init_ranks() as ranks:
        return _document(path, None if wanted == "here" else devices.get_device_spec(wanted), count or ranks.world_size, say, ranks)


def _document(path: Path, published: DeviceSpec | None, count: int, say: Callable[[str], None], ranks: Ranks) -> dict[str, Any]:
    asked, device = read(path), select_device(ranks=ranks)
    say("convatlas: measuring this machine, passes of the run and the loading of its data: about 10 s")
    tune_malloc()
    run, dataset, missing = open_data_if_present(asked, device)
    notes, amount = [missing] if missing else [], workload(run)
    loader = None if dataset is None else min(ranks.all_gather(profile_loader(run, dataset, device, ranks)), key=lambda loader: loader.rate)
    precision: Precision = "fp32" if run.precision == "auto" else run.precision
    measurable: Precision = "fp32" if published and precision == "tf32" and device.type == "cpu" else precision
    runtime, figures = Runtime(device, measurable, ranks=ranks), model_cost(run, measurable)
    rates = ranks.all_gather(devices.measure_device(device, measurable, ranks, 4 * figures.trainable))[0]
    found = profile_steps(run, runtime, figures, rates)
    share = min(1.0, training_roofline(figures, rates, found.images) / found.seconds) if found else None
    if published is None and found is not None:
        origin, pace = "measured", found.pace
        if should_compile(device, 3.0 * figures.macs * run.recipe.batch * run.steps) if run.compile == "auto" else run.compile:
            notes.append("measured without compiling: train would compile this run, and be quicker")
    else:
        if published is not None:
            rates, before = published, precision
            precision = rates.supported_precision(("bf16" if "bf16" in rates.flops else "fp32") if asked.precision == "auto" else precision)
            if precision != before:
                notes.append(f"planned in {precision}, which is what {rates.name} multiplies in hardware; the run says {before}")
            figures = model_cost(run, precision)
        origin = "roofline, its share measured here" if share and share < ASSUMED_SHARE else "roofline, its share assumed"
        share = min(share or 1.0, ASSUMED_SHARE)
        pace = roofline_step_time(figures, rates, amount.micro_batch, share)
    if count > amount.batch:
        notes.append(f"a batch of {amount.batch} gives an image to no more than {amount.batch} devices: the others have nothing to do")
    step = {"origin": origin, "share": share, "pace": pace, "overlapped": scaling.OVERLAPPED_SHARE}
    return {
        "run_id": run.id,
        "model": run.model.name,
        "data_set": run.data.name,
        "recipe": run.recipe.name,
        "precision": precision,
        "batch": amount.batch,
        "micro_batch": amount.micro_batch,
        "steps": amount.steps,
        "steps_per_epoch": amount.steps_per_epoch,
        "macs": figures.macs,
        "params": figures.params,
        "count": count,
        "device": rates,
        "step": step | {"measured_images": found.images if found else None, "measured_seconds": found.seconds if found else None},
        **scaling.document(figures, amount, pace, rates, count, loader, published is None),
        "notes": notes,
    }
