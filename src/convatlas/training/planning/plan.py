"""The plan of a run: its data opened, this machine measured or a device's published rates taken, the arithmetic done; as one document."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from convatlas.data import Dataset
from convatlas.errors import UsageError, UserError, printable
from convatlas.runtime import hardware as devices
from convatlas.runtime.compilation import worth_compiling
from convatlas.runtime.device import Precision, best_precision, pick_device
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.runtime.distributed.rendezvous import join
from convatlas.runtime.hardware import Rates
from convatlas.runtime.memory import keep_freed_memory
from convatlas.runtime.runtime import Runtime
from convatlas.training import run as runs
from convatlas.training.planning import scaling
from convatlas.training.planning.profiler import loading, rehearse
from convatlas.training.planning.step_time import ATTAINED, by_roofline, training_roofline
from convatlas.training.planning.workload import network, work
from convatlas.training.resolve import complete
from convatlas.training.run import Run


def read(path: Path) -> Run:
    """The run of a `run.json`, or of the folder that holds one. Raises UsageError for what is neither."""
    file = path / "run.json" if path.is_dir() else path
    try:
        return runs.read(file.read_bytes(), str(file)).run
    except OSError as error:
        raise UsageError(f"cannot read {printable(file)} ({error.strerror}): expected a run.json, or a run's folder") from None


def opened(run: Run, device: torch.device) -> tuple[Run, Dataset | None, str]:
    """The complete run and its data; a complete run whose data cannot be opened here is planned without it, and why is said.

    Raises as `complete` for a run that is not complete.
    """
    try:
        whole, dataset = complete(run, device)
    except UserError as error:
        if run.data.content is None:
            raise
        precision = best_precision(device) if run.precision == "auto" else run.precision
        return run.but(precision=precision), None, f"the data is not read: {error}"
    return whole, dataset, ""


def document(path: Path, wanted: str, count: int | None, say: Callable[[str], None]) -> dict[str, Any]:
    """The document of `plan`. `wanted` is `here` or a device of the table, `count` how many (None: as many as there are ranks); `say` tells
    a person what is going on. Under torchrun the ranks measure together, and a device here is what one of them has of the machine.

    Raises UsageError for a device that is unknown, a count below 1, a file that is no run; and as `complete`.
    """
    if count is not None and count < 1:
        raise UsageError(f"--count should be 1 or more, not {count}")
    with join() as ranks:
        return _document(path, None if wanted == "here" else devices.find(wanted), count or ranks.count, say, ranks)


def _document(path: Path, published: Rates | None, count: int, say: Callable[[str], None], ranks: Ranks) -> dict[str, Any]:
    asked, device = read(path), pick_device(ranks=ranks)
    say("convatlas: measuring this machine, passes of the run and the loading of its data: about 10 s")
    keep_freed_memory()
    run, dataset, missing = opened(asked, device)
    notes, amount = [missing] if missing else [], work(run)
    loader = None if dataset is None else min(ranks.gather(loading(run, dataset, device, ranks)), key=lambda loader: loader.rate)
    precision: Precision = "fp32" if run.precision == "auto" else run.precision
    measurable: Precision = "fp32" if published and precision == "tf32" and device.type == "cpu" else precision
    runtime, figures = Runtime(device, measurable, ranks=ranks), network(run, measurable)
    rates = ranks.gather(devices.measured(device, measurable, ranks, 4 * figures.trainable))[0]
    found = rehearse(run, runtime, figures, rates)
    share = min(1.0, training_roofline(figures, rates, found.images) / found.seconds) if found else None
    if published is None and found is not None:
        origin, pace = "measured", found.pace
        if worth_compiling(device, 3.0 * figures.macs * run.recipe.batch * run.steps) if run.compile == "auto" else run.compile:
            notes.append("measured without compiling: train would compile this run, and be quicker")
    else:
        if published is not None:
            rates, before = published, precision
            precision = rates.precision(("bf16" if "bf16" in rates.flops else "fp32") if asked.precision == "auto" else precision)
            if precision != before:
                notes.append(f"planned in {precision}, which is what {rates.name} multiplies in hardware; the run says {before}")
            figures = network(run, precision)
        origin = "roofline, its share measured here" if share and share < ATTAINED else "roofline, its share assumed"
        share = min(share or 1.0, ATTAINED)
        pace = by_roofline(figures, rates, amount.micro_batch, share)
    if count > amount.batch:
        notes.append(f"a batch of {amount.batch} gives an image to no more than {amount.batch} devices: the others have nothing to do")
    step = {"origin": origin, "share": share, "pace": pace, "overlapped": scaling.OVERLAPPED}
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
