"""A trained network in other formats.

Each is written beside its place, read back by the library that it is for, compared with PyTorch in fp32 on
the same images, and only then put in its place.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from convatlas.classifier import Classifier, load, write_model_file
from convatlas.errors import UserError, printable
from convatlas.export import quantization, script
from convatlas.inference import eager, onnx, openvino
from convatlas.inference.graph import InferenceModule, InferFn, prepare_module
from convatlas.inference.parity import MAX_DIFFERENCE_FP32, check_parity
from convatlas.runtime.device import Precision, best_precision
from convatlas.storage.atomic import atomic_output, atomic_write
from convatlas.storage.records import to_json
from convatlas.storage.utf8_path import utf8_path

IMAGE_CHANNELS = (1, 3)  # of image files


class Exported(NamedTuple):
    """The path, and the largest difference from PyTorch's logits as a share of the largest logit."""

    path: Path
    difference: float


class QuantizedExport(NamedTuple):
    """The path, and the score in percent of the network before (fp32) and after."""

    path: Path
    before: float
    after: float

    @property
    def drop(self) -> float:
        return self.before - self.after


SCORES = {"top1": "top-1", "mean_iou": "mean IU"}
OPSETS = range(18, 24)
"""The versions of ONNX's operators that PyTorch's exporter writes"""


def to_onnx(model: nn.Module | Classifier, example: Tensor, path: Path, opset: int | None = None) -> Exported:
    """Write one ONNX file: `images` (batch, c, h, w), of any batch -> `logits`.

    A classifier takes uint8 images and normalises inside; its classes and preprocessing stand in the file's
    metadata, and a script that classifies an image file stands beside it. Of a module that returns several
    values, the entry `logits` or `out` is written, else the first tensor. `opset`: one of `OPSETS`, by
    default PyTorch's.

    Raises UserError when the result does not agree, a library is missing, or the network has operators that
    the opset lacks.
    """
    module = _prepare(model, example)
    _require("onnx", onnx.missing_requirement())
    with atomic_output(path) as new:
        onnx.write_model(module, example, new, _metadata(model), opset)
        difference = _check_exported("onnx", onnx.run_model(new), module, example)
    if isinstance(model, Classifier) and model.metadata.preprocessing.channels in IMAGE_CHANNELS:
        text = script.onnx_script(model.metadata.preprocessing, path.name)
        atomic_write(script_path(path), text.encode())
    return Exported(path, difference)


def script_path(path: Path) -> Path:
    """The script beside an ONNX file: model_classify.py beside model.onnx."""
    return path.with_name(f"{path.stem}_classify.py")


def to_openvino(model: nn.Module | Classifier, example: Tensor, path: Path) -> Exported:
    """Write a folder with OpenVINO's intermediate representation, `model.xml` and `model.bin`, weights in
    fp32.

    Otherwise as `to_onnx`.
    """
    module = _prepare(model, example)
    _require("openvino", openvino.missing_requirement())
    with atomic_output(path) as new:
        new.mkdir()
        openvino.write_model(openvino.converted_model(module, example), new / "model.xml", _metadata(model))
        _write_openvino_script(model, new)
        infer = openvino.Runner(openvino.read_model(new / "model.xml"), "fp32")
        difference = _check_exported("openvino", infer, module, example)
    return Exported(path, difference)


def to_int8(
    model: nn.Module | Classifier,
    example: Tensor,
    path: Path,
    calibration: Iterable[Tensor],
    accuracy: Callable[[InferFn], float],
    max_drop: float = 0.5,
    score: str = "top1",
) -> QuantizedExport:
    """As `to_openvino`, quantised to 8 bits.

    `calibration`: batches of training images. `accuracy` returns an engine's `score`, top1 or mean_iou, in
    percent, on images that are neither those nor the test's. Raises UserError when it falls by more than
    `max_drop` points: nothing is written then.
    """
    module = _prepare(model, example)
    _require("int8", quantization.missing_requirement())
    precision = best_precision(module.device)
    with atomic_output(path) as new:
        before = accuracy(openvino.build(module, example, "fp32"))
        new.mkdir()
        quantized = quantization.quantize(module, example, calibration)
        openvino.write_model(quantized, new / "model.xml", _metadata(model))
        _write_openvino_script(model, new)
        after = accuracy(openvino.Runner(openvino.read_model(new / "model.xml"), precision))
        export = QuantizedExport(path, before, after)
        if export.drop > max_drop:
            raise UserError(
                f"in int8 {SCORES[score]} falls by {export.drop:.2f} points, from {before:.2f} to "
                f"{after:.2f} %, more than the {max_drop:g} that --max-drop allows: nothing was written"
            )
    return export


def to_safetensors(classifier: Classifier, path: Path) -> Exported:
    """Write the classifier as one file that any safetensors reader opens and `load` takes.

    It holds the network's tensors by their names, the normalizer's under `preprocessing.`, all else in the
    metadata.
    """
    with atomic_output(path) as new:
        write_classifier(classifier, new)
    return Exported(path, 0.0)


def write_classifier(classifier: Classifier, file: Path) -> None:
    """Raises UserError unless what is read back, also by safetensors alone, is bit-identical."""
    write_model_file(file, classifier.metadata, classifier.model, classifier.normalizer)
    metadata = load(file).metadata
    with utf8_path(file) as path:
        tensors = safetensors.torch.load_file(path)
    expected = classifier.model.state_dict()
    same_tensors = all(torch.equal(tensors[name], tensor.cpu()) for name, tensor in expected.items())
    if metadata != classifier.metadata or not same_tensors:
        name = printable(file.name)
        raise UserError(f"what was written to {name} is not what can be read from it: nothing was kept")


def _write_openvino_script(model: nn.Module | Classifier, folder: Path) -> None:
    if isinstance(model, Classifier) and model.metadata.preprocessing.channels in IMAGE_CHANNELS:
        text = script.openvino_script(model.metadata.preprocessing)
        atomic_write(folder / "classify.py", text.encode())


def _prepare(model: nn.Module | Classifier, example: Tensor) -> InferenceModule:
    return prepare_module(model.inference_module() if isinstance(model, Classifier) else model, example)


def _check_exported(
    name: str,
    infer: InferFn,
    module: InferenceModule,
    example: Tensor,
    precision: Precision = "fp32",
) -> float:
    """The largest difference. Raises UserError where the logits are too far from PyTorch's."""
    parity = check_parity(infer(example), eager.build(module, example, "fp32")(example), precision)
    if not parity.enough:
        raise UserError(
            f"the {name} export does not agree with PyTorch: the largest difference is "
            f"{parity.difference:.1g} of the "
            f"largest logit, {MAX_DIFFERENCE_FP32:g} is allowed; nothing was kept"
        )
    return parity.difference


def _require(name: str, missing: str | None) -> None:
    if missing:
        raise UserError(f"export to {name} needs {missing}")


def _metadata(model: nn.Module | Classifier) -> dict[str, str]:
    """A classifier's classes in the order of the logits, and all its metadata, for the file."""
    if not isinstance(model, Classifier):
        return {}
    return {
        "classes": to_json(model.metadata.classes).decode(),
        "convatlas": to_json(model.metadata).decode(),
    }


def random_images(classifier: Classifier, count: int = 8) -> Tensor:
    """uint8 (count, channels, *size), the same every time: examples to check every export on."""
    generator = torch.Generator().manual_seed(0)
    shape = classifier.metadata.preprocessing.shape
    return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
