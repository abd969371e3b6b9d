"""From a run to a classifier: the run, the objective, the loop, checkpoints, the report."""

from convatlas.training.result import Result
from convatlas.training.run import Run
from convatlas.training.train import resume, train

__all__ = ["Result", "Run", "resume", "train"]
