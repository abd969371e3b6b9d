"""From a run to a classifier: the run, the objective, the loop, checkpoints, the report."""

from convatlas.training.job import Result as Result
from convatlas.training.job import train as train
from convatlas.training.run import Run as Run
