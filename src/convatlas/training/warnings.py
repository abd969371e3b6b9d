"""What makes a run unlikely to give a good or a measurable result: too few steps or images."""

import numpy as np

from convatlas.data import Dataset
from convatlas.errors import printable
from convatlas.evaluation.metrics import interval
from convatlas.training.run import Run

MIN_STEPS = 100
MIN_IMAGES = 5  # of a class, for training
MAX_INTERVAL = 20.0  # points of accuracy from the lower to the upper end


def run_warnings(run: Run, dataset: Dataset) -> tuple[str, ...]:
    """The warnings of a complete run, each a sentence for people."""
    warnings = []
    if run.steps < MIN_STEPS:
        epochs = -(-MIN_STEPS // run.steps_per_epoch)
        warnings.append(
            f"only {run.steps} steps, too few to learn much: at least {MIN_STEPS} would be --epochs {epochs}"
        )
    return (*warnings, *_few_images(dataset)) if dataset.task == "classification" else tuple(warnings)


def _few_images(dataset: Dataset) -> list[str]:
    """Of sets of labelled images: each image counts for one."""
    warnings = []
    train = dataset.splits["train"]
    sizes = np.bincount(train.labels, minlength=len(dataset.classes))
    few = np.flatnonzero(sizes < MIN_IMAGES)
    if len(few):
        smallest = int(sizes.argmin())
        others = f", and {len(few) - 1} more have fewer than {MIN_IMAGES}" if len(few) > 1 else ""
        warnings.append(
            f"class {printable(dataset.classes[smallest])} has {sizes[smallest]} training images{others}: "
            "no accuracy can be expected of so few"
        )
    for name in ("val", "test"):
        n = len(dataset.splits[name])
        low, high = interval(n // 2, n)
        if high - low > MAX_INTERVAL:
            warnings.append(
                f"the {name} split has {n} images: an accuracy of 50 % on it may be anything from {low:.0f} "
                f"to {high:.0f} %"
            )
    return warnings
