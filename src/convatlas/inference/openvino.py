"""OpenVINO, the fastest on a CPU: bf16 where the CPU multiplies it, several streams, no telemetry.

Images run in requests of four, as many at once as there are cores. Images that would leave a core idle run
one by one, each on all cores. So one image has the shortest latency, many have the best throughput, and only
two shapes are ever compiled.
"""

import errno
import sys
import tempfile
import warnings
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convatlas.errors import printable
from convatlas.inference.graph import InferenceModule, InferFn, export_program
from convatlas.runtime.device import Precision
from convatlas.storage.cache import cached_folder, folder_key

REQUEST_BATCH = 4  # images
MAX_STREAMS = 4  # requests at once: a batch is no larger than 32


def missing_requirement() -> str | None:
    return None if find_spec("openvino") else "OpenVINO: pip install 'convatlas[openvino]'"


def library() -> Any:
    """The package without its telemetry, which would report every import and conversion."""
    # its import fails, which openvino and nncf tolerate
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def core() -> Any:
    """OpenVINO's reader and compiler of models, one for the life of the process.

    Its CPU plugin gives the thread that loads it another stack for signal handlers, and unmaps that stack
    when the plugin is destroyed, on whichever thread that happens: the next signal would end the process.
    """
    return library().Core()


def build(module: InferenceModule, example: Tensor, precision: Precision) -> InferFn:
    return Runner(converted_model(module, example), precision)


def converted_model(module: InferenceModule, example: Tensor) -> Any:
    """The graph as an OpenVINO model with a free batch, from the user's cache if it is there."""

    def write_graph(folder: Path) -> None:
        write_model(convert(module, example), folder / "graph.xml", {})

    folder = cached_folder("engines", cache_key(module, example), write_graph)
    return convert(module, example) if folder is None else read_model(folder / "graph.xml")


def read_model(file: Path) -> Any:
    """A model from the file that `write_model` wrote."""
    return core().read_model(file)


def write_model(model: Any, file: Path, metadata: dict[str, str]) -> None:
    """Write `file`, which ends in .xml, and the fp32 weights beside it, with `metadata` in it.

    Raises OSError when the disk refuses.
    """
    for key, value in metadata.items():
        model.set_rt_info(value, key)
    try:
        library().save_model(model, file, compress_to_fp16=False)
    except RuntimeError as error:  # whatever the system's error was
        reason = _system_error(file) or printable(str(error).strip().splitlines()[-1])
        raise OSError(errno.EIO, f"OpenVINO could not write it: {reason}", str(file)) from None


def _system_error(file: Path) -> str:
    """Why nothing can be written beside a file; "" where it can."""
    try:
        with tempfile.TemporaryFile(dir=file.parent) as probe:
            probe.write(bytes(1 << 20))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def cache_key(module: InferenceModule, example: Tensor) -> str | None:
    shape = str(tuple(example.shape[1:]))
    return folder_key(module.key, "openvino", library().__version__, shape, str(example.dtype))


def convert(module: InferenceModule, example: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # its front end copies torch's own records in a way that torch advises against
        model = library().convert_model(export_program(module, example))
    model.reshape([-1, *example.shape[1:]])
    model.inputs[0].set_names({"images"})
    model.outputs[0].set_names({"logits"})
    return model


class Runner:
    """A model with a free batch, run at the two shapes."""

    def __init__(self, model: Any, precision: Precision):
        self.model = model
        self.streams = min(MAX_STREAMS, torch.get_num_threads())
        self.settings = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}

    def __call__(self, images: Tensor) -> Tensor:
        batch = np.ascontiguousarray(images.numpy())
        images_at_once = REQUEST_BATCH * self.streams
        in_requests = len(batch) // images_at_once * images_at_once
        logits: list[Any] = [None] * (in_requests // REQUEST_BATCH)

        def store(request: Any, index: int) -> None:
            logits[index] = request.get_output_tensor().data.copy()

        if in_requests:
            self._queue.set_callback(store)
            for index in range(len(logits)):
                images_of_request = batch[index * REQUEST_BATCH : (index + 1) * REQUEST_BATCH]
                self._queue.start_async({0: images_of_request}, index, share_inputs=True)
            self._queue.wait_all()
        logits += [
            self._single({0: image[None]}, share_inputs=True)[0].copy() for image in batch[in_requests:]
        ]
        return torch.from_numpy(np.concatenate(logits).astype(np.float32, copy=False))

    @cached_property
    def _queue(self) -> Any:
        hints = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        return library().AsyncInferQueue(self._compile(REQUEST_BATCH, hints))

    @cached_property
    def _single(self) -> Any:
        return self._compile(
            1, {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        )

    def _compile(self, batch_size: int, hints: dict[str, Any]) -> Any:
        fixed = self.model.clone()
        fixed.reshape([batch_size, *(size.get_length() for size in fixed.inputs[0].partial_shape[1:])])
        return core().compile_model(fixed, "CPU", self.settings | hints)
