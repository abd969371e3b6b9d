"""ONNX Runtime, in fp32, on the ONNX model that `export` writes."""

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convatlas.inference.batching import chunked
from convatlas.inference.graph import InferenceModule, InferFn, export_program
from convatlas.runtime.device import Precision, usable_cores
from convatlas.storage.utf8_path import utf8_path

MAX_BATCH = 32


def missing_requirement() -> str | None:
    required = ("onnx", "onnxscript", "onnxruntime")
    missing = [package for package in required if find_spec(package) is None]
    return f"{' and '.join(missing)}: pip install 'convatlas[onnx]'" if missing else None


def build(module: InferenceModule, example: Tensor, precision: Precision) -> InferFn:
    return run_model(convert(module, example).SerializeToString())


def write_model(module: InferenceModule, example: Tensor, file: Path, metadata: dict[str, str]) -> None:
    """Write the graph and its weights into one file, with `metadata`.

    Raises what ONNX's own checker raises.
    """
    import onnx

    model = convert(module, example)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(file))


def convert(module: InferenceModule, example: Tensor) -> Any:
    """The graph as an ONNX model with a free batch: `images` -> `logits`."""
    # below errors it has a line for each exporter of another library that is not installed
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            export_program(module, example),
            input_names=["images"],
            output_names=["logits"],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def run_model(model: bytes | Path) -> InferFn:
    """An ONNX model with the input `images` and the output `logits`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3  # errors
    providers = ["CPUExecutionProvider"]
    if isinstance(model, Path):
        with utf8_path(model) as path:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    else:
        session = onnxruntime.InferenceSession(model, options, providers=providers)

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.contiguous().numpy()})
        return torch.from_numpy(logits).float()

    return chunked(run, MAX_BATCH)
