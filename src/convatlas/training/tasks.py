"""The task of a run: that of its network."""

from convatlas import models
from convatlas.data.task import Task
from convatlas.evaluation.classification import CLASSIFICATION
from convatlas.segmentation.task import SEGMENTATION
from convatlas.training.run import Run

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFICATION, SEGMENTATION)}


def task_of(run: Run) -> Task:
    return TASKS[models.get_entry(run.model.name, run.model.edition).task]
