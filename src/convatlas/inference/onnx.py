"""The network by ONNX Runtime, in fp32, from the ONNX file that `export` writes."""

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convatlas.inference.graph import Infer, Subject, exported
from convatlas.inference.pieces import in_pieces
from convatlas.runtime.device import Precision, usable_cores

PIECE = 32  # images at once


def lacks() -> str | None:
    needed = ("onnx", "onnxscript", "onnxruntime")
    missing = [package for package in needed if find_spec(package) is None]
    return f"{' and '.join(missing)}: pip install 'convatlas[onnx]'" if missing else None


def build(part: Subject, example: Tensor, precision: Precision) -> Infer:
    return run(convert(part, example).model_proto.SerializeToString())


def convert(part: Subject, example: Tensor) -> Any:
    """The graph as ONNX, with a free batch: images -> logits."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it would say for each exporter of another library that this is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(exported(part, example), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False)


def run(model: bytes | Path) -> Infer:
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

    return in_pieces(some, PIECE)
