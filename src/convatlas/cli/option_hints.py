"""The field of a run that an unknown option means: `--lr` is `--set recipe.optimizer.lr=`."""

from collections.abc import Iterator
from typing import Any

# the names of other trainers, by the last part of a field's path or by our option
SYNONYMS = {
    "learning-rate": "lr",
    "wd": "weight-decay",
    "bs": "batch",
    "batch-size": "batch",
    "b": "batch",
    "img-size": "image-size",
    "imgsz": "image-size",
    "input-size": "image-size",
    "pretrained": "--weights",
    "checkpoint": "--weights",
    "finetune": "--recipe finetune",
    "output": "--out",
    "output-dir": "--out",
    "project": "--out",
    "data-path": "--data",
    "data-dir": "--data",
    "dataset": "--data",
    "num-workers": "--workers",
    "j": "--workers",
    "amp": "precision",
    "drop": "dropout",
    "smoothing": "label-smoothing",
}


def setting_for_option(option: str) -> str | None:
    """What to type for an option of this name, or None."""
    name = option.lstrip("-").replace("_", "-")
    name = SYNONYMS.get(name, name)
    if name.startswith("--"):
        return name
    if name == "batch":
        return "--batch"
    field = name.replace("-", "_")
    for path in _paths(_example_run()):
        if path.rpartition(".")[2] == field:
            return f"--set {path}="
    return None


def _example_run() -> dict[str, Any]:
    import msgspec

    from convatlas.training.run import Run

    document: dict[str, Any] = msgspec.to_builtins(Run(model="resnet18", data="digits"))
    return document


def _paths(document: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The paths of all fields."""
    for name, value in document.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")
