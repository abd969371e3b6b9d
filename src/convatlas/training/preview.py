"""A data set as a training would use it: its preprocessing, and its augmented batches."""

from typing import NamedTuple

import torch

from convatlas.data import Dataset, open_dataset
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.preprocessing import (
    Preprocessing,
    center_crop_preprocessing,
    fixed_size_preprocessing,
)
from convatlas.training.batches import train_batches
from convatlas.training.resolve import resolve_run
from convatlas.training.run import DataSpec, Run

DEFAULT_SIZE = (224, 224)  # of images of several sizes, without a network


class DataPreview(NamedTuple):
    """`batches` are None without a network; `title` says what the recipe does with them."""

    dataset: Dataset
    preprocessing: Preprocessing
    batches: TrainBatches | None
    title: str
    notes: tuple[str, ...]


def preview_data(data: str, model: str = "", recipe: str = "quick", seed: int = 0) -> DataPreview:
    """Raises as `open_dataset`, and with a network as `resolve_run`."""
    if not model:
        dataset = open_dataset(data)
        size = dataset.size
        if size:
            preprocessing = fixed_size_preprocessing(dataset.channels, size, size)
        else:
            preprocessing = center_crop_preprocessing(dataset.channels, DEFAULT_SIZE)
        return DataPreview(dataset, preprocessing, None, "", (*dataset.notes, *dataset.warnings))
    spec = DataSpec(data, conflicts="drop")
    resolved = resolve_run(Run(model=model, data=spec, recipe=recipe, seed=seed), torch.device("cpu"))
    run = resolved.run
    steps = [type(step).__name__ for step in (run.recipe.crop, *run.recipe.augment) if step is not None]
    preprocessing = run.content.preprocessing
    height, width = preprocessing.input_size
    title = f"{run.model.name}'s input by recipe {run.recipe.name}, at {width}x{height}: "
    title += ", ".join(steps) or "no augmentation"
    batches = train_batches(run, resolved.dataset.splits["train"])
    notes = (*run.notes, *resolved.dataset.warnings)
    return DataPreview(resolved.dataset, preprocessing, batches, title, notes)
