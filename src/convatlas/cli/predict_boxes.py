"""`predict` with a detector: boxes as documents, and drawn over their images."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convatlas.cli.prediction_files import Documents, shared_documents, write_files
from convatlas.errors import UsageError, UserError
from convatlas.names import escape_name

if TYPE_CHECKING:
    from convatlas.boxes import Detector
    from convatlas.runtime.distributed.ranks import Ranks


def open_detector(weights: Path, engine: str, ranks: "Ranks") -> "Detector":
    """Raises UsageError for an engine that runs no detector, UserError for weights that cannot be read."""
    from convatlas.boxes import Detector

    if engine not in ("auto", "eager"):
        raise UsageError(f"detectors run their network by eager alone: leave out --engine {engine}")
    return Detector(weights, ranks)


def box_documents(
    detector: "Detector", files: Iterable[str], top: int, folder: Path, ranks: "Ranks"
) -> Documents:
    """Write NAME.boxes.png, the image with its `top` best boxes, for each image, and yield their documents in
    order on every rank; each rank predicts its share of the images.

    Raises UserError where the folder cannot be written.
    """
    return shared_documents(
        files, folder, ranks, lambda file, name: _document(detector, file, name, top, folder)
    )


def _document(detector: "Detector", file: str, name: str, top: int, folder: Path) -> dict[str, Any]:
    from convatlas.data.box_pictures import class_color, draw_boxes
    from convatlas.plotting import image_png

    ((_, detected),) = detector.detect_iter([file], max_detections=top)
    if isinstance(detected, UserError):
        return {"file": escape_name(file), "error": str(detected)}
    boxes, scores, labels = detected.detections
    names = [detector.classes[label] for label in labels]
    texts = [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
    in_pixels = boxes / detected.scale
    picture = draw_boxes(detected.pixels, in_pixels, texts, [class_color(int(label)) for label in labels])
    ((_, path),) = write_files(folder, {f"{name}.boxes.png": image_png(picture)}).items()
    return {
        "file": escape_name(file),
        "boxes": [
            {"class": name, "score": float(score), "box": box}
            for name, score, box in zip(names, scores, boxes.tolist(), strict=True)
        ],
        "picture": path,
    }
