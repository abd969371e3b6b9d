"""What a training works with, built once by `train.setup` and handed to the loop."""

from dataclasses import dataclass

import torch

from convatlas.data import Dataset
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.task import EvalSource, Task
from convatlas.runtime.runtime import Runtime
from convatlas.runtime.signals import StopRequest
from convatlas.training.checkpoint import CheckpointManager
from convatlas.training.metrics_log import MetricsLog
from convatlas.training.objective import Objective
from convatlas.training.progress import ProgressDisplay
from convatlas.training.run import Run
from convatlas.training.run_folder import RunFolder
from convatlas.training.unreadable import UnreadableImageLog


@dataclass(frozen=True)
class TrainContext:
    run: Run
    task: Task
    dataset: Dataset
    objective: Objective
    optimizer: torch.optim.Optimizer
    runtime: Runtime
    train: TrainBatches
    val: EvalSource
    test: EvalSource
    folder: RunFolder
    log: MetricsLog
    checkpoints: CheckpointManager
    unreadable: UnreadableImageLog
    display: ProgressDisplay
    stop: StopRequest
    workers: int = 0
