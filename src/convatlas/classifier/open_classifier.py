"""Open the classifier of a run's folder or a file."""

import os
from pathlib import Path

from convatlas.classifier.classifier import Classifier, choose_precision
from convatlas.classifier.model_file import read_model_file
from convatlas.classifier.training_images import FILE_NAME as TRAINING_IMAGES
from convatlas.errors import UserError, printable, wrong_type
from convatlas.runtime.device import select_device
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.memory import tune_malloc
from convatlas.runtime.num_threads import default_threads
from convatlas.runtime.runtime import Runtime
from convatlas.runtime.trust import trust_package


def load(path: str | Path, ranks: Ranks = SINGLE_PROCESS, trust: str | None = None) -> Classifier:
    """The classifier of a run folder or a `model.safetensors` file, on this rank's device.

    `trust`: the top-level name of a package of your own, whose networks are imported.

    Raises UserError when the file is missing, damaged, or does not fit its network.
    """
    if not isinstance(path, str | os.PathLike):
        raise wrong_type("what load reads", path, "a run's folder or a model.safetensors file")
    if trust is not None:
        trust_package(trust)
    tune_malloc()
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if path.is_dir() and not file.exists():
        is_run = (path / "run.json").exists()
        hint = f"finish it with: convatlas train --resume {path}" if is_run else "expected a run folder"
        raise UserError(f"{printable(path)} holds no model.safetensors: {hint}")
    metadata, model, normalizer = read_model_file(file)
    device = select_device("auto", ranks)
    runtime = Runtime(
        device, choose_precision(metadata, device), threads=default_threads(ranks.local_world_size)
    )
    return Classifier(metadata, model, normalizer, runtime, file.with_name(TRAINING_IMAGES))
