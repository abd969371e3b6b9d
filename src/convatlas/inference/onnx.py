"""ONNX Runtime, in fp32, on the ONNX model that `export` writes."""

import logging
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convatlas.errors import UserError
from convatlas.inference.batching import chunked
from convatlas.inference.graph import InferenceModule, InferFn, export_program
from convatlas.runtime.device import Precision

MAX_BATCH = 32


def missing_requirement() -> str | None:
    required = ("onnx", "onnxscript", "onnxruntime")
    missing = [package for package in required if find_spec(package) is None]
    return f"{' and '.join(missing)}: pip install 'convatlas[onnx]'" if missing else None


def build(module: InferenceModule, example: Tensor, precision: Precision) -> InferFn:
    return run_model(convert(module, example).SerializeToString())


def write_model(
    module: InferenceModule, example: Tensor, file: Path, metadata: dict[str, str], opset: int | None = None
) -> None:
    """Write the graph and its weights into one file, with `metadata`.

    Raises UserError for operators that do not exist in this `opset`, and what ONNX's own checker raises.
    """
    import onnx

    model = convert(module, example, opset)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(file))


def convert(module: InferenceModule, example: Tensor, opset: int | None = None) -> Any:
    """The graph as an ONNX model: `images` (batch, ...) -> `logits` (batch, ...), of any batch.

    Raises UserError where the exporter cannot write this `opset`.
    """
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
            opset_version=opset,
        )
    assert program is not None
    model = program.model_proto
    written = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset is not None and written != opset:
        raise UserError(
            f"this network needs operators that opset {opset} does not have: leave the opset out, or take "
            f"{written}"
        )
    _name_batch(model)
    return model


def _name_batch(model: Any) -> None:
    """Rename the batch dimension, which torch names after a symbol of its own (`s31`)."""
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    pattern = re.compile(rf"\b{re.escape(symbol)}\b")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub("batch", dim.dim_param)


def run_model(model: bytes | Path) -> InferFn:
    """An ONNX model with the input `images` and the output `logits`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    source = str(model) if isinstance(model, Path) else model
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.contiguous().numpy()})
        return torch.from_numpy(logits).float()

    return chunked(run, MAX_BATCH)
