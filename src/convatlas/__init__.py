"""ConvAtlas: the landmark convolutional networks, each exactly as its paper prints it."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from convatlas import boxes as boxes
    from convatlas import export as export
    from convatlas import inference as inference
    from convatlas import models as models
    from convatlas import studies as studies
    from convatlas import visualization as visualization
    from convatlas.analysis.analyze import analyze as analyze
    from convatlas.boxes.detector import Detector as Detector
    from convatlas.classifier import Classifier as Classifier
    from convatlas.classifier import load as load
    from convatlas.evaluation.evaluate import evaluate as evaluate
    from convatlas.interop.load_weights import load_weights as load_weights
    from convatlas.models import create_model as create_model
    from convatlas.models import editions as editions
    from convatlas.models import edits as edits
    from convatlas.models import list_models as list_models
    from convatlas.segmentation.segmenter import Segmenter as Segmenter
    from convatlas.training.result import Result as Result
    from convatlas.training.run import Run as Run
    from convatlas.training.train import train as train

# Names are looked up on first use: `convatlas --help` must not wait for torch to be imported.
_ROOMS = {
    "analyze": "analysis",
    "Classifier": "classifier",
    "Detector": "boxes.detector",
    "evaluate": "evaluation",
    "load": "classifier",
    "load_weights": "interop",
    "create_model": "models",
    "editions": "models",
    "list_models": "models",
    "Result": "training",
    "Run": "training",
    "Segmenter": "segmentation.segmenter",
    "train": "training",
}
# modules whose names are used with the module's own
_WHOLE = {
    "boxes": "boxes",
    "edits": "models.edits",
    "export": "export",
    "inference": "inference",
    "models": "models",
    "studies": "studies",
    "visualization": "visualization",
}
__all__ = [*_ROOMS, *_WHOLE, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _WHOLE:
        return importlib.import_module(f"convatlas.{_WHOLE[name]}")
    if name not in _ROOMS:
        raise AttributeError(f"module 'convatlas' has no attribute {name!r}")
    return getattr(importlib.import_module(f"convatlas.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
