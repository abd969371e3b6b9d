"""The network by ONNX Runtime, in fp32, from the ONNX file that `export` writes."""

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

MAX_BATCH = 32  # images at once


def missing_requirement() -> str | None:
    needed = ("onnx", "onnxscript", "onnxruntime")
    missing = [package for package in needed if find_spec(package) is None]
    return f"{' and '.join(missing)}: pip install 'convatlas[onnx]'" if missing else None


def build(part: InferenceModule, example: Tensor, precision: Precision) -> InferFn:
    return run_model(convert(part, example).SerializeToString())


def write_model(part: InferenceModule, example: Tensor, file: Path, facts: dict[str, str]) -> None:
    """Write the graph with its weights into one file, and `facts` into its metadata; refuse what ONNX's own checker refuses."""
    import onnx

    model = convert(part, example)
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(file))


def convert(part: InferenceModule, example: Tensor) -> Any:
    """The graph as an ONNX model with a free batch: images -> logits."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it would say for each exporter of another library that this is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.onnx.export(
            export_program(part, example), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False
        )
    assert found is not None
    return found.model_proto


def run_model(model: bytes | Path) -> InferFn:
    """An ONNX model with the input `images` and the output `logits`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3  # errors
    source = str(model) if isinstance(model, Path) else model
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def some(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.contiguous().numpy()})
        return torch.from_numpy(logits).float()

    return chunked(some, MAX_BATCH)
