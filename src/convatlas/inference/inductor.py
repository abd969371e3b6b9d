"""torch.compile with frozen weights: one batch shape, about half a minute of compiling."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from convatlas.inference.batching import fixed_batch
from convatlas.inference.graph import InferenceModule, InferFn
from convatlas.runtime.compilation import can_compile
from convatlas.runtime.device import Precision
from convatlas.runtime.runtime import Runtime
from convatlas.storage.cache import private_folder

MAX_BATCH = 32


def missing_requirement() -> str | None:
    return None if can_compile(torch.device("cpu")) else "a C++ compiler: install g++"


def build(module: InferenceModule, example: Tensor, precision: Precision) -> InferFn:
    """Compiled for batches of as many images as the example has, at most 32."""
    from torch._inductor import config

    _use_private_cache()
    runtime = Runtime(module.device, precision)
    compiled = torch.compile(runtime.to_device(module.graph))

    def run(images: Tensor) -> Tensor:
        with torch.no_grad(), runtime.autocast(), config.patch(freezing=True):
            logits: Tensor = compiled(images.to(runtime.device))
        return logits.float().cpu()

    infer = fixed_batch(run, min(len(example), MAX_BATCH))
    infer(example[:1])  # compiles
    return infer


def _use_private_cache() -> None:
    """Keep compiled code in the user's cache: others may write into the default folder."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        folder = private_folder("inductor")
        if folder is None:
            temporary = tempfile.mkdtemp(prefix="convatlas-inductor-")
            atexit.register(shutil.rmtree, temporary, ignore_errors=True)
            folder = Path(temporary)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
