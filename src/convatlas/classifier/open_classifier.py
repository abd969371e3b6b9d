"""Open the classifier of a run's folder or a file."""

import os
from pathlib import Path

from convatlas.classifier.classifier import Classifier, choose_precision
from convatlas.classifier.model_file import ModelFile, find_model_file, read_model_file
from convatlas.classifier.training_images import FILE_NAME as TRAINING_IMAGES
from convatlas.errors import wrong_type
from convatlas.runtime.device import select_device
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.memory import tune_malloc
from convatlas.runtime.num_threads import default_threads
from convatlas.runtime.runtime import Runtime
from convatlas.runtime.trust import trust_package


def load(path: str | Path, ranks: Ranks = SINGLE_PROCESS, trust: str | None = None) -> Classifier:
    """The classifier of a run folder or a `model.safetensors` file, on this rank's device.

    `trust`: the top-level name of a package of your own, whose networks are imported.

    Raises UserError when the file is missing, damaged, or does not fit its network; UsageError for a
    detector.
    """
    if not isinstance(path, str | os.PathLike):
        raise wrong_type("what load reads", path, "a run's folder or a model.safetensors file")
    if trust is not None:
        trust_package(trust)
    tune_malloc()
    file = find_model_file(path)
    return open_model(read_model_file(file), file, ranks)


def open_model(content: ModelFile, file: Path, ranks: Ranks = SINGLE_PROCESS) -> Classifier:
    """The classifier of a file's content, on this rank's device."""
    metadata, model, normalizer = content
    device = select_device("auto", ranks)
    runtime = Runtime(
        device, choose_precision(metadata, device), threads=default_threads(ranks.local_world_size)
    )
    return Classifier(metadata, model, normalizer, runtime, file.with_name(TRAINING_IMAGES))
