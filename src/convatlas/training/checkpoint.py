"""Checkpoints: what a run needs to continue bit for bit. The last two are kept; a thread writes them while
training goes on.

A checkpoint stores how long metrics.jsonl was; loading it truncates the log to that length.
"""

import re
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convatlas.errors import UserError
from convatlas.optim.plateau import PlateauState
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.threads import single_threaded_pool
from convatlas.storage.atomic import FILE_OPS, FileOps
from convatlas.storage.checked_safetensors import hash_tensors, read_checked, write_checked
from convatlas.storage.records import Record, from_json
from convatlas.training.metrics_log import MetricsLog
from convatlas.training.objective import Objective
from convatlas.training.run import FORMAT
from convatlas.training.run_folder import RunFolder

MAX_CHECKPOINTS = 2


@dataclass
class TrainState:
    """Where a training is: what is neither in the model nor in the optimiser.

    `running_totals` (3,): this rank's loss, correct predictions and images since the last log. Of an image
    whose pixels are labelled, the share of correct pixels is counted.
    """

    step: int = 0
    plateau: PlateauState = field(default_factory=PlateauState)
    running_totals: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def count(self, loss: Tensor, correct: Tensor) -> None:
        """Count a step of images of which the share `correct` (n,) is predicted correctly, without waiting
        for the device."""
        images = len(correct)
        self.running_totals += torch.stack([loss * images, correct.sum(), loss.new_full((), images)])
        self.step += 1

    def check_finite(self) -> None:
        """Raises UserError for a loss since the last log that was not finite (a GPU runs ahead)."""
        if not self.running_totals.isfinite().all():
            raise UserError(
                f"the loss became non-finite before step {self.step}: continue from the last checkpoint, or "
                "at a lower rate"
            )

    def averages(self, score: str, ranks: Ranks = SINGLE_PROCESS) -> dict[str, float]:
        """Mean loss, and under the key `score` the percentage of correct predictions, of all ranks since the
        last call.

        Raises as `check_finite`, on every rank.
        """
        totals = ranks.all_reduce_sum(self.running_totals)
        self.with_totals(totals).check_finite()
        loss, correct, images = totals.tolist()
        self.running_totals.zero_()
        return {"loss": loss / images, score: 100 * correct / images}

    def with_totals(self, running_totals: Tensor) -> "TrainState":
        return TrainState(self.step, self.plateau, running_totals)

    def gathered(self, ranks: Ranks) -> "TrainState":
        """The state as a checkpoint stores it: a row of totals for each rank."""
        return self.with_totals(torch.stack(ranks.all_gather(self.running_totals.cpu())))

    def local(self, ranks: Ranks) -> "TrainState":
        """This rank's state, from a checkpoint's; with another number of ranks, rank 0 takes all totals."""
        rows = self.running_totals.view(-1, 3)
        if len(rows) != ranks.world_size:
            rows = torch.cat([rows.sum(0, keepdim=True), rows.new_zeros(ranks.world_size - 1, 3)])
        return self.with_totals(rows[ranks.rank])


class _CheckpointMetadata(Record, frozen=True, kw_only=True):
    format: int
    run: str
    step: int
    plateau: PlateauState
    metrics_length: int


class CheckpointManager:
    """Saves and loads checkpoints. All ranks call it; rank 0 alone writes and reads."""

    def __init__(
        self, folder: RunFolder, log: MetricsLog, ranks: Ranks = SINGLE_PROCESS, ops: FileOps = FILE_OPS
    ):
        self.folder = folder
        self.warnings: list[str] = []
        self._log = log
        self._ranks = ranks
        self._ops = ops
        self._run_id = folder.run_file.run.id
        self._writing: Future[None] | None = None

    def save(
        self,
        state: TrainState,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        event: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy the tensors, and let a thread write them; `event`, with the weights' hash, is logged before.

        Raises UserError when a loss since the last log was not finite: the checkpoints before remain. Raises
        what ended the writing of the checkpoint before.
        """
        state = state.gathered(self._ranks)
        state.check_finite()  # good checkpoints must not be replaced by a bad one
        self.wait()
        if self._ranks.rank:
            return
        weights = {name: tensor.detach().clone() for name, tensor in objective.weights().items()}
        others = {"running_totals": state.running_totals}
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    others[f"optimizer.{index}.{key}"] = value.detach().clone()
        pool = single_threaded_pool(1, "checkpoints")
        self._writing = pool.submit(self._write, state, weights, others, event)
        self._log.wait_for(self._writing)

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk, and the oldest are removed.

        Raises OSError when the disk refuses.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def save_and_wait(
        self, state: TrainState, objective: Objective, optimizer: torch.optim.Optimizer
    ) -> None:
        """Save before the run ends: no rank returns before the checkpoint is on the disk, since torchrun ends
        all ranks when the first has ended."""
        self.save(state, objective, optimizer)
        self._ranks.run_on_main(self.wait)

    def load(self, objective: Objective, optimizer: torch.optim.Optimizer) -> TrainState:
        """Load, on every rank, the newest whole checkpoint, and truncate the log to it; a new state where
        there is none.

        Raises UserError when there are checkpoints but none can be used.
        """
        state, tensors = self._ranks.run_on_main(self._read_newest)
        if tensors:
            objective.load_weights(tensors)
            _load_optimizer(tensors, optimizer)
        return state.local(self._ranks)

    def close(self) -> None:
        if self._writing is not None:
            wait([self._writing])

    def _write(
        self,
        state: TrainState,
        weights: dict[str, Tensor],
        others: dict[str, Tensor],
        event: Mapping[str, Any] | None,
    ) -> None:
        if event is not None:
            self._log.append_event(**event, event="checkpoint", weights_sha256=hash_tensors(weights))
        length = self._log.sync()  # the lines that the checkpoint counts on must be on the disk before it is
        metadata = _CheckpointMetadata(
            format=FORMAT,
            run=self._run_id,
            step=state.step,
            plateau=state.plateau,
            metrics_length=length,
        )
        file = self.folder.checkpoints / f"{state.step:08d}.safetensors"
        write_checked(file, weights | others, metadata, self._ops)
        for old in self._newest_first()[MAX_CHECKPOINTS:]:
            self._ops.remove(old)

    def _read_newest(self) -> tuple[TrainState, dict[str, Tensor]]:
        self.wait()
        files = self._newest_first()
        reason = ""
        for file in files:
            try:
                tensors, document = read_checked(file)
                metadata = from_json(document, _CheckpointMetadata, str(file))
                if metadata.run != self._run_id:
                    raise UserError(f"{file} belongs to another run")
                self._log.truncate(metadata.metrics_length)  # fails where the log has lost lines
            except UserError as error:
                self.warnings.append(f"{error}; falling back to the checkpoint before")
                reason = reason or str(error)
                continue
            return TrainState(metadata.step, metadata.plateau, tensors["running_totals"]), tensors
        if files:
            raise UserError(
                f"none of the {len(files)} checkpoints in {self.folder.checkpoints} can be used ({reason}): "
                "put back what is lost, or remove that folder to start again"
            )
        self._log.truncate(0)
        return TrainState(), {}

    def _newest_first(self) -> list[Path]:
        files = self.folder.checkpoints.iterdir()
        return sorted(
            (file for file in files if re.fullmatch(r"\d{8,}\.safetensors", file.name)), reverse=True
        )


def _load_optimizer(tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if not name.startswith("optimizer."):
            continue
        _, index, key = name.split(".", 2)
        parameter = parameters[int(index)]
        if (
            tensor.shape == parameter.shape
        ):  # in the parameter's memory layout: fused optimisers walk both side by side
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
