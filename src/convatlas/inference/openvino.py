"""The network by OpenVINO, the fastest on a CPU: bf16 where the CPU multiplies it, several streams, no telemetry.

Images go through in pieces of four, as many at once as there are cores; what would leave a core idle goes one by one, each on all cores.
So one image has the shortest latency, many have the best throughput, and two shapes are all that is ever compiled.
"""

import sys
import warnings
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convatlas.inference.graph import InferenceModule, InferFn, export_program
from convatlas.runtime.device import Precision, usable_cores
from convatlas.storage.cache import cached_folder, folder_key

REQUEST_BATCH = 4  # images of a request
MAX_STREAMS = 4  # requests at once, at most: a batch is no larger than 32


def missing_requirement() -> str | None:
    return None if find_spec("openvino") else "OpenVINO: pip install 'convatlas[openvino]'"


def library() -> Any:
    """The package without its telemetry, which would report every import and conversion."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its import fails: openvino and nncf take that well
    import openvino

    return openvino


@cache
def core() -> Any:
    """What reads and compiles models, one for as long as the process lives: its CPU plugin gives the thread that loads it another stack
    for signal handlers, and unmaps that when it goes, on whichever thread that is: then the next signal would end the process."""
    return library().Core()


def build(part: InferenceModule, example: Tensor, precision: Precision) -> InferFn:
    return Runner(converted_model(part, example), precision)


def converted_model(part: InferenceModule, example: Tensor) -> Any:
    """The graph as an OpenVINO model with a free batch, from the user's cache where it was converted before."""
    folder = cached_folder(
        "engines", cache_key(part, example), lambda folder: write_model(convert(part, example), folder / "graph.xml", {})
    )
    return convert(part, example) if folder is None else read_model(folder / "graph.xml")


def read_model(file: Path) -> Any:
    """A model from the file that `save` wrote."""
    return core().read_model(file)


def write_model(model: Any, file: Path, facts: dict[str, str]) -> None:
    """Write `file`, which ends in .xml, and the weights beside it, as they are; `facts` into its runtime information."""
    for key, value in facts.items():
        model.set_rt_info(value, key)
    library().save_model(model, file, compress_to_fp16=False)


def cache_key(part: InferenceModule, example: Tensor) -> str | None:
    return folder_key(part.key, "openvino", library().__version__, str(tuple(example.shape[1:])), str(example.dtype))


def convert(part: InferenceModule, example: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its front end copies torch's own records in a way that torch advises against
        found = library().convert_model(export_program(part, example))
    found.reshape([-1, *example.shape[1:]])
    found.inputs[0].set_names({"images"})
    found.outputs[0].set_names({"logits"})
    return found


class Runner:
    """A model with a free batch, run at the two shapes."""

    def __init__(self, model: Any, precision: Precision):
        self.model, self.streams = model, min(MAX_STREAMS, usable_cores())
        self.settings = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}

    def __call__(self, images: Tensor) -> Tensor:
        batch = np.ascontiguousarray(images.numpy())
        together = REQUEST_BATCH * self.streams
        many = len(batch) // together * together
        answers: list[Any] = [None] * (many // REQUEST_BATCH)
        if many:
            self._pieces.set_callback(lambda request, place: answers.__setitem__(place, request.get_output_tensor().data.copy()))
            for place in range(len(answers)):
                self._pieces.start_async({0: batch[place * REQUEST_BATCH : (place + 1) * REQUEST_BATCH]}, place, share_inputs=True)
            self._pieces.wait_all()
        answers += [self._one({0: image[None]}, share_inputs=True)[0].copy() for image in batch[many:]]
        return torch.from_numpy(np.concatenate(answers).astype(np.float32, copy=False))

    @cached_property
    def _pieces(self) -> Any:
        hints = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": self.streams, "INFERENCE_NUM_THREADS": usable_cores()}
        return library().AsyncInferQueue(self._compiled(REQUEST_BATCH, hints))

    @cached_property
    def _one(self) -> Any:
        return self._compiled(1, {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": usable_cores()})

    def _compiled(self, batch: int, hints: dict[str, Any]) -> Any:
        fixed = self.model.clone()
        fixed.reshape([batch, *(dimension.get_length() for dimension in fixed.inputs[0].partial_shape[1:])])
        return core().compile_model(fixed, "CPU", self.settings | hints)
