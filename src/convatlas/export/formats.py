"""A trained network in everyone's formats. Each is written beside its place, read back by the library that it is for, compared with
PyTorch in fp32 on the same images, and only then put in its place."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from convatlas import classifier as classifiers
from convatlas.classifier import Classifier
from convatlas.errors import UserError, printable
from convatlas.export import quantization
from convatlas.inference import eager, onnx, openvino
from convatlas.inference.graph import InferenceModule, InferFn, prepare_module
from convatlas.inference.parity import MAX_DIFFERENCE_FP32, check_parity
from convatlas.runtime.device import Precision, best_precision
from convatlas.storage.atomic import atomic_output
from convatlas.storage.records import to_json


class Exported(NamedTuple):
    """What was written, and how far its answers are from PyTorch's: the largest difference in parts of the largest logit."""

    path: Path
    difference: float


class QuantizedExport(NamedTuple):
    """What was written, and top-1 in percent of the network before (fp32) and after."""

    path: Path
    before: float
    after: float

    @property
    def drop(self) -> float:
        return self.before - self.after


def to_onnx(model: nn.Module | Classifier, example: Tensor, path: Path) -> Exported:
    """One ONNX file with everything in it: `images` (n, c, h, w), any n -> `logits`. A classifier takes uint8 and standardises inside;
    its classes and preprocessing stand in the file's metadata. Raises UserError when it does not agree, or a library is missing."""
    part = prepare_module(model)
    _require("onnx", onnx.missing_requirement())
    with atomic_output(path) as new:
        onnx.write_model(part, example, new, _described(model))
        difference = _check_exported("onnx", onnx.run_model(new), part, example)
    return Exported(path, difference)


def to_openvino(model: nn.Module | Classifier, example: Tensor, path: Path) -> Exported:
    """A folder with OpenVINO's intermediate representation, `model.xml` and `model.bin`: as `to_onnx`, weights in fp32."""
    part = prepare_module(model)
    _require("openvino", openvino.missing_requirement())
    with atomic_output(path) as new:
        new.mkdir()
        openvino.write_model(openvino.converted_model(part, example), new / "model.xml", _described(model))
        difference = _check_exported("openvino", openvino.Runner(openvino.read_model(new / "model.xml"), "fp32"), part, example)
    return Exported(path, difference)


def to_int8(
    model: nn.Module | Classifier,
    example: Tensor,
    path: Path,
    calibration: Iterable[Tensor],
    accuracy: Callable[[InferFn], float],
    max_drop: float = 0.5,
) -> QuantizedExport:
    """As `to_openvino`, quantised to 8 bits. `calibration` are batches of training images; `accuracy` gives an engine's top-1, in percent,
    on images that are neither those nor the test's. Raises UserError when it falls by more than `most_drop` points: nothing is written.
    """
    part = prepare_module(model)
    _require("int8", quantization.missing_requirement())
    precision = best_precision(part.device)
    with atomic_output(path) as new:
        before = accuracy(openvino.build(part, example, "fp32"))
        new.mkdir()
        openvino.write_model(quantization.quantize(part, example, calibration), new / "model.xml", _described(model))
        found = QuantizedExport(path, before, accuracy(openvino.Runner(openvino.read_model(new / "model.xml"), precision)))
        if found.drop > max_drop:
            raise UserError(
                f"in int8 top-1 falls by {found.drop:.2f} points, from {found.before:.2f} to {found.after:.2f} %, more than the "
                f"{max_drop:g} that --max-drop allows: nothing was written"
            )
    return found


def to_safetensors(classifier: Classifier, path: Path) -> Exported:
    """The classifier as one file that any safetensors reader opens and `load` takes: the network's tensors by their names, those of the
    standardisation under `preprocessing.`, everything else in the metadata."""
    with atomic_output(path) as new:
        write_classifier(classifier, new)
    return Exported(path, 0.0)


def write_classifier(classifier: Classifier, file: Path) -> None:
    """Raises UserError unless what is read back, by us and by safetensors alone, is bit for bit what was written."""
    classifiers.write_model_file(file, classifier.metadata, classifier.model, classifier.normalizer)
    read, plain, ours = classifiers.load(file), safetensors.torch.load_file(file), classifier.model.state_dict()
    if read.metadata != classifier.metadata or not all(torch.equal(plain[name], tensor.cpu()) for name, tensor in ours.items()):
        raise UserError(f"what was written to {printable(file.name)} is not what can be read from it: nothing was kept")


def _check_exported(name: str, infer: InferFn, part: InferenceModule, example: Tensor, precision: Precision = "fp32") -> float:
    """Raises UserError where the answers are too far from PyTorch's."""
    found = check_parity(infer(example), eager.build(part, example, "fp32")(example), precision)
    if not found.enough:
        raise UserError(
            f"the {name} export does not agree with PyTorch: the largest difference is {found.difference:.1g} of the largest logit, "
            f"{MAX_DIFFERENCE_FP32:g} is allowed; nothing was kept"
        )
    return found.difference


def _require(name: str, missing: str | None) -> None:
    if missing:
        raise UserError(f"export to {name} needs {missing}")


def _described(model: nn.Module | Classifier) -> dict[str, str]:
    """What a file says of a classifier: its classes in the order of the logits, and its whole card."""
    if not isinstance(model, Classifier):
        return {}
    return {"classes": to_json(model.metadata.classes).decode(), "convatlas": to_json(model.metadata).decode()}
