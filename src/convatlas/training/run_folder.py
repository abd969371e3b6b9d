"""A run's folder: run.json, metrics.jsonl, timing.jsonl, checkpoints/, model.safetensors, report.md.

metrics.jsonl holds only functions of the run, so that a run that was killed and resumed leaves the very same bytes; rates and waits
go to timing.jsonl. A checkpoint remembers how long metrics.jsonl was; going back to it cuts the file there.
"""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from convatlas.errors import UsageError, UserError, printable
from convatlas.optim.plateau import Watch
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.threads import single_threaded_pool
from convatlas.storage import checked_safetensors
from convatlas.storage.atomic import FILE_OPS, FileOps, JsonLines, atomic_write
from convatlas.storage.lock import folder_lock
from convatlas.storage.records import Record, diff, from_json
from convatlas.training import run as runs
from convatlas.training.objective import Objective
from convatlas.training.run import Run, RunFile

MAX_CHECKPOINTS = 2  # checkpoints
ORPHAN_SECONDS = 15.0  # seconds that loader workers may outlive a rank that was killed, and hold its folder


@dataclass
class TrainState:
    """Where a training is: what is not in the model or the optimiser. `tally` sums this rank's loss, right answers and images since the
    last log; `watch` is what a plateau has seen."""

    step: int = 0
    plateau: Watch = field(default_factory=Watch)
    running_totals: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def count(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Note a step that was taken, without waiting for the device."""
        right = (logits.argmax(1) == targets).sum()
        self.running_totals += torch.stack([loss * len(targets), right, right.new_full((), len(targets))])
        self.step += 1

    def check_finite(self) -> None:
        """Raises UserError when a loss since the last averages was not finite (a GPU is not waited for at every step)."""
        if not self.running_totals.isfinite().all():
            raise UserError(f"the loss stopped being finite before step {self.step}: continue from the last checkpoint, or at a lower rate")

    def averages(self, ranks: Ranks = SINGLE_PROCESS) -> dict[str, float]:
        """Mean loss, and top-1 in percent, of all ranks since the last call. Raises UserError when a loss among them was not finite."""
        total = ranks.all_reduce_sum(self.running_totals)
        self.with_totals(total).check_finite()
        loss, right, images = total.tolist()
        self.running_totals.zero_()
        return {"loss": loss / images, "top1": 100 * right / images}

    def with_totals(self, tally: Tensor) -> "TrainState":
        return TrainState(self.step, self.plateau, tally)

    def gathered(self, ranks: Ranks) -> "TrainState":
        """As a checkpoint keeps it: with a row of the tally for each rank."""
        return self.with_totals(torch.stack(ranks.all_gather(self.running_totals.cpu())))

    def local(self, ranks: Ranks) -> "TrainState":
        """This rank's, from what a checkpoint kept; with another number of ranks than before, the first takes all."""
        rows = self.running_totals.view(-1, 3)
        if len(rows) != ranks.world_size:
            rows = torch.cat([rows.sum(0, keepdim=True), rows.new_zeros(ranks.world_size - 1, 3)])
        return self.with_totals(rows[ranks.rank])


class _Checkpoint(Record, frozen=True, kw_only=True):
    format: int
    run: str
    step: int
    watch: Watch
    metrics_length: int


class RunFolder:
    """Open for writing by one process at a time; get one from `open_folder`."""

    def __init__(self, path: Path, disk: FileOps = FILE_OPS, ranks: Ranks = SINGLE_PROCESS):
        self.path, self.disk, self.ranks = path, disk, ranks
        self.run_file = runs.read_run_file((path / "run.json").read_bytes(), str(path / "run.json"))
        self.checkpoints = path / "checkpoints"
        self.checkpoints.mkdir(exist_ok=True)
        for litter in [*path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")]:  # of a process that was killed while it wrote
            litter.unlink(missing_ok=True)
        self.metrics = JsonLines(path / "metrics.jsonl", disk)
        self.timing = JsonLines(path / "timing.jsonl", disk)
        self.warnings: list[str] = []
        self._writing: Future[None] | None = None

    def log(self, **line: Any) -> None:
        self.wait()  # the lines of metrics.jsonl stay in their order
        self.metrics.append(msgspec.json.encode(line))

    def log_timing(self, **line: Any) -> None:
        """Costs nothing to lose: a full disk must not stop the training for it."""
        try:
            self.timing.append(msgspec.json.encode(line))
        except OSError as error:
            self.warnings.append(f"timing.jsonl is no longer written: {error.strerror}")
            self.log_timing = lambda **line: None  # type: ignore[method-assign]

    def lines(self) -> list[dict[str, Any]]:
        """What metrics.jsonl holds now."""
        self.wait()
        return [msgspec.json.decode(line) for line in (self.path / "metrics.jsonl").read_bytes().splitlines()]

    def save(
        self, state: TrainState, objective: Objective, optimizer: torch.optim.Optimizer, line: Mapping[str, Any] | None = None
    ) -> None:
        """Copy what a checkpoint keeps, and let a thread write it while the training goes on; `line`, with the weights' fingerprint, goes
        to metrics.jsonl before it. Raises UserError when a loss since the last log was not finite, and as `settle`; the old ones remain."""
        state = state.gathered(self.ranks)
        state.check_finite()  # good checkpoints must not give way to a bad one
        self.wait()
        self._begin(state, objective, optimizer, line)

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk, and the oldest beyond two are gone. Raises OSError when the disk refuses it."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _begin(self, state: TrainState, objective: Objective, optimizer: torch.optim.Optimizer, line: Mapping[str, Any] | None) -> None:
        weights = {name: tensor.detach().clone() for name, tensor in objective.weights().items()}
        rest = {"tally": state.running_totals}
        for index, values in optimizer.state_dict()["state"].items():
            rest |= {f"optimizer.{index}.{key}": value.detach().clone() for key, value in values.items() if isinstance(value, Tensor)}
        self._writing = single_threaded_pool(1, "checkpoints").submit(self._write, state, weights, rest, line)

    def _write(self, state: TrainState, weights: dict[str, Tensor], rest: dict[str, Tensor], line: Mapping[str, Any] | None) -> None:
        if line is not None:
            self.metrics.append(msgspec.json.encode({**line, "split": "save", "weights": checked_safetensors.hash_tensors(weights)}))
        self.metrics.sync()  # the lines that the checkpoint counts on must be there before it is
        document = _Checkpoint(
            format=runs.FORMAT, run=self.run_file.run.id, step=state.step, watch=state.plateau, metrics_length=self.metrics.length
        )
        checked_safetensors.write_checked(self.checkpoints / f"{state.step:08d}.safetensors", weights | rest, document, self.disk)
        for old in self._newest_first()[MAX_CHECKPOINTS:]:
            self.disk.remove(old)

    def restore(self, objective: Objective, optimizer: torch.optim.Optimizer) -> TrainState:
        """Load, in every rank, the newest checkpoint that is whole, and cut the log back to it; a fresh state where there is none.

        Raises UserError when there are checkpoints but none can be used.
        """
        state, tensors = self.ranks.run_on_main(self._newest)
        if tensors:
            objective.load_weights(tensors)
            _load(tensors, optimizer)
        return state.local(self.ranks)

    def _newest(self) -> tuple[TrainState, dict[str, Tensor]]:
        self.wait()
        found = self._newest_first()
        for path in found:
            try:
                tensors, document = checked_safetensors.read_checked(path)
                checkpoint = from_json(document, _Checkpoint, str(path))
                if checkpoint.run != self.run_file.run.id:
                    raise UserError(f"{path} belongs to another run")
            except UserError as error:
                self.warnings.append(f"{error}; falling back to the checkpoint before")
                continue
            self.metrics.truncate(checkpoint.metrics_length)
            return TrainState(checkpoint.step, checkpoint.watch, tensors["tally"]), tensors
        if found:
            raise UserError(f"none of the {len(found)} checkpoints in {self.checkpoints} can be used: to start anew, remove that folder")
        self.metrics.truncate(0)
        return TrainState(), {}

    def _newest_first(self) -> list[Path]:
        return sorted((p for p in self.checkpoints.iterdir() if re.fullmatch(r"\d{8,}\.safetensors", p.name)), reverse=True)

    def close(self) -> None:
        if self._writing is not None:
            wait([self._writing])
        self.metrics.close()
        self.timing.close()


class NullRunFolder(RunFolder):
    """The folder that rank 0 writes, as the other ranks have it: they write nothing, and find nothing."""

    def __init__(self, path: Path, stored: RunFile, ranks: Ranks):
        self.path, self.stored, self.ranks, self.warnings, self._writing = path, stored, ranks, [], None
        self.checkpoints = path / "checkpoints"

    def log(self, **line: Any) -> None:
        pass

    def log_timing(self, **line: Any) -> None:
        pass

    def lines(self) -> list[dict[str, Any]]:
        return []

    def _begin(self, state: TrainState, objective: Objective, optimizer: torch.optim.Optimizer, line: Mapping[str, Any] | None) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def open_folder(
    path: Path, run: Run, environment: Mapping[str, Any], force: bool = False, disk: FileOps = FILE_OPS, ranks: Ranks = SINGLE_PROCESS
) -> Iterator[RunFolder]:
    """Start a run's folder, or continue in it; rank 0 alone. Raises UsageError when it holds another run, another process writes there, or
    the environment differs from the one in which the run was started (`force` continues all the same)."""
    file = path / "run.json"
    if ranks.rank:
        yield NullRunFolder(path, RunFile(run=run, environment=environment), ranks)
        return
    if path.is_dir() and not file.exists() and any(entry.name != ".lock" for entry in path.iterdir()):
        raise UsageError(f"{printable(path)} is not empty and holds no run: give another folder with --out")
    path.mkdir(parents=True, exist_ok=True)
    with folder_lock(path, ORPHAN_SECONDS if ranks.restart_count else 0.0):
        if file.exists():
            stored = runs.read_run_file(file.read_bytes(), str(file))
            if stored.run != run:
                change = diff(stored.run, run)[0]
                raise UsageError(f"{printable(path)} holds another run ({change}): give another folder with --out")
            changes = diff(dict(stored.environment), dict(environment))
            if changes and not force:
                raise UsageError(
                    f"{printable(path)} was started in another environment ({'; '.join(changes)}), so it would not end with the same "
                    f"weights: continue all the same with --force"
                )
        else:
            atomic_write(file, runs.serialize_run_file(RunFile(run=run, environment=environment)), disk)
        folder = RunFolder(path, disk, ranks)
        try:
            yield folder
        finally:
            folder.close()


def _load(tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            parameter = parameters[int(index)]
            if tensor.shape == parameter.shape:  # in the parameter's own layout: fused optimisers walk both side by side
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
