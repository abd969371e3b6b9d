"""`export_classifier`: a classifier in a format by its name, for Python and for `convatlas export`."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convatlas.classifier import Classifier, load
from convatlas.classifier.edited import edited_classifier
from convatlas.errors import UsageError, printable, unknown_name, wrong_type
from convatlas.export import formats, huggingface, int8
from convatlas.models.edits import Edit

# Where each format is written, in the run's folder
DEFAULT_NAMES = {
    "onnx": "model.onnx",
    "openvino": "openvino",
    "int8": "openvino-int8",
    "safetensors": "classifier.safetensors",
    "hub": "hub",
}


def export_classifier(
    classifier: Classifier | str | Path,
    to: str,
    out: str | Path | None = None,
    opset: int | None = None,
    max_drop: float = 0.5,
    data: str | None = None,
    edits: Sequence[Edit] = (),
) -> dict[str, Any]:
    """Write a classifier as `to`: onnx, openvino, int8, safetensors or hub; read it back and compare.

    classifier: a Classifier, a run's folder or a model.safetensors file. out: a file for onnx and
    safetensors, else a folder; by default in the run's folder. opset: the version of ONNX's operators. For
    int8: data: images to calibrate and check on, by default the training data; max_drop: the largest allowed
    fall of top-1, in points. edits: changes of the network that add no weights.

    Beside ONNX and OpenVINO stands a short Python script that classifies an image file without ConvAtlas.
    Returns the document of `convatlas export --json`. Raises UsageError for a format or an opset that does
    not exist and for an output that exists; UserError for an export that does not agree.
    """
    given: object = classifier
    if not isinstance(given, Classifier | str | os.PathLike):
        expected = "a Classifier or a run's folder (ca.export.to_onnx takes any module)"
        raise wrong_type("what export_classifier takes", given, expected)
    check_request(to, opset, max_drop)
    source = None if isinstance(classifier, Classifier) else Path(classifier)
    if out is not None:
        path = Path(out)
    elif source is not None:
        path = default_path(source, to)
    else:
        raise UsageError(f"say where the export is written: out={DEFAULT_NAMES[to]!r}")
    check_is_new(path, to)
    loaded = load(source) if source is not None else classifier
    assert isinstance(loaded, Classifier)
    if edits:
        loaded = edited_classifier(loaded, edits)
    path.parent.mkdir(parents=True, exist_ok=True)
    return {"out": str(path), "to": to} | _write(
        loaded, to, path, opset, max_drop, data, str(source or "classifier")
    )


def check_request(to: str, opset: int | None, max_drop: float) -> None:
    """Raise UsageError for a format, an opset or a drop that does not exist."""
    if to not in DEFAULT_NAMES:
        raise unknown_name("format", to, DEFAULT_NAMES)
    if opset is not None and to != "onnx":
        raise UsageError(f"--opset is the version of ONNX's operators: {to} has none")
    if opset is not None and opset not in formats.OPSETS:
        raise UsageError(
            f"--opset should be {formats.OPSETS[0]} to {formats.OPSETS[-1]}, those of PyTorch, not {opset}"
        )
    if not 0 <= max_drop <= 100:
        raise UsageError(f"--max-drop should be 0 to 100 points, not {max_drop:g}")


def default_path(weights: Path, to: str) -> Path:
    return (weights if weights.is_dir() else weights.parent) / DEFAULT_NAMES[to]


def check_is_new(path: Path, to: str) -> None:
    """Raise UsageError for an output that exists."""
    for file in (path, *([formats.script_path(path)] if to == "onnx" else [])):
        if file.exists():
            raise UsageError(
                f"{printable(file)} already exists: choose another place with --out, or remove it"
            )


def _write(
    classifier: Classifier,
    to: str,
    out: Path,
    opset: int | None,
    max_drop: float,
    data: str | None,
    name: str,
) -> dict[str, Any]:
    match to:
        case "int8":
            return dataclasses.asdict(int8.classifier_to_int8(classifier, out, data, max_drop, name))
        case "hub":
            return {"difference": huggingface.to_hub(classifier, out).difference}
        case "safetensors":
            return {"difference": formats.to_safetensors(classifier, out).difference}
        case "onnx":
            images = formats.random_images(classifier)
            return {"difference": formats.to_onnx(classifier, images, out, opset).difference}
        case _:
            images = formats.random_images(classifier)
            return {"difference": formats.to_openvino(classifier, images, out).difference}
