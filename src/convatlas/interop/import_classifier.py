"""Another library's weights as one of our classifiers: its network, its classes, the preprocessing that it was trained with."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convatlas import models
from convatlas.classifier import FORMAT, Classifier, ClassifierMetadata
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.errors import UsageError, UserError, printable
from convatlas.interop.key_mapping import IMAGENET
from convatlas.interop.load_weights import SOURCES, StateDictMatch, load_weights, match_state_dict, rename_fn
from convatlas.interop.weight_file import read_weight_file
from convatlas.models import Network

MAX_CLASSES_BYTES = 16 << 20


def import_classifier(file: str | Path, model: str, edition: str | None = None, classes: str | Path | None = None) -> Classifier:
    """Read a weight file of torchvision, timm or pytorchcv (or a plain one of ours) into a classifier.

    Without `edition`, the first that the weights fit. `classes` is a file of class names, one a line or a JSON list; without it
    classes bear their numbers. Raises UserError when the weights fit no edition or the file cannot be used.
    """
    file = Path(file)
    if models.get_entry(model, edition or "paper").task != "classification":
        raise UsageError(f"{model} labels every pixel: import takes networks that classify images, load_weights takes any")
    tensors, ours = read_weight_file(file)
    if ours:
        raise UsageError(f"{printable(file)} is a classifier of ConvAtlas already: use it as it is, with predict or eval")
    network, fit = _fitting(model, edition, tensors, file)
    architecture = network.architecture
    assert architecture is not None
    count = int(architecture.arguments["num_classes"])  # type: ignore[arg-type]
    labels = tuple(map(str, range(count))) if classes is None else _class_names(Path(classes))
    if len(labels) != count:
        raise UserError(f"{printable(classes)} names {len(labels)} classes, but the weights of {printable(file)} are for {count}")
    source = fit.source
    network = models.build(architecture)
    load_weights(network, tensors, source)
    twin = SOURCES[source][model] if source in SOURCES else None
    side = twin.size if twin else models.get_entry(model).input[1]
    shorter = twin.shorter if twin else side * 8 // 7
    statistics = twin.statistics if twin else IMAGENET
    card = ClassifierMetadata(
        format=FORMAT,
        network=architecture,
        classes=labels,
        preprocessing=Preprocessing(
            channels=network.in_chans, source=(shorter, shorter), size=(side, side), fit="crop" if shorter > side else "none"
        ),
        precision="fp32",
        batch=32,
        provenance={"imported": file.name, "sha256": _sha256(file), "source": source},
        metrics={},
    )
    mean, std = (_by_channel(values, network.in_chans) for values in statistics)
    return Classifier(card, network, Normalizer(mean, std))


def _fitting(model: str, wanted: str | None, tensors: dict[str, Tensor], file: Path) -> tuple[Network, StateDictMatch]:
    """The network, on meta tensors, whose state dict the weights are, and how they fit: of the edition wanted, or of the first that fits.

    Raises UserError with the edition that does fit, or with the nearest.
    """
    found: list[tuple[Network, StateDictMatch]] = []
    for edition in models.editions(model):
        heads = (True, False) if "aux" in models.get_entry(model).arguments(edition) else (None,)
        for source in (*SOURCES, "convatlas"):
            for aux in heads:
                arguments: dict[str, Any] = {} if aux is None else {"aux": aux}
                with torch.device("meta"):
                    default = models.create_model(model, edition=edition, **arguments)
                    network = models.create_model(model, edition=edition, **arguments, **_read_off(default, tensors, source))
                fit = match_state_dict(network, tensors, source)
                if fit is not None:
                    found.append((network, fit))
                if fit is not None and fit.exact and wanted in (None, edition):
                    return network, fit
    nearest, fit = min(found, key=lambda pair: pair[1].distance)
    edition = nearest.architecture.edition if nearest.architecture else ""
    if fit.exact:
        raise UserError(f"{printable(file)} holds {fit.source}'s {model}, which is edition {edition} and not {wanted}: leave out --edition")
    raise UserError(f"{printable(file)} fits no edition of {model}; the nearest is {edition} under {fit.source}'s names: {fit}")


def _read_off(default: Network, tensors: dict[str, Tensor], source: str) -> dict[str, int]:
    """Classes and channels, from the shapes of the last and the first layer's weights; nothing where they are not found."""
    assert default.architecture is not None
    rename, keys = rename_fn(source, default.architecture), list(default.state_dict())
    if rename is None:
        return {}
    found = {}
    for argument, key, axis in (("num_classes", f"{default.classifier}.weight", 0), ("in_chans", keys[0], 1)):
        tensor = tensors.get(rename(key, default)) if key in keys else None
        if tensor is not None and tensor.dim() > axis:
            found[argument] = tensor.shape[axis]
    return found


def _class_names(file: Path) -> tuple[str, ...]:
    try:
        if file.stat().st_size > MAX_CLASSES_BYTES:
            raise UserError(f"{printable(file)} is too large for a list of class names: expected one name a line, or a JSON list")
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {printable(file)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{printable(file)} is not UTF-8 text: expected one class name a line, or a JSON list") from None
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            raise UserError(
                f"{printable(file)} begins like a JSON list but is none: expected one class name a line, or a JSON list"
            ) from None
    else:
        found = [line.strip() for line in text.splitlines() if line.strip()]
    if not all(isinstance(name, str) for name in found):
        raise UserError(f"{printable(file)} holds something other than names: expected one class name a line, or a JSON list of them")
    if len(set(found)) != len(found):
        twice = next(name for i, name in enumerate(found) if name in found[:i])
        raise UserError(f"{printable(file)} names the class {printable(twice)!r} twice: each class needs a name of its own")
    return tuple(found)


def _by_channel(values: tuple[float, ...], channels: int) -> Tensor:
    """For other than three channels, what the three have on average."""
    chosen = values if channels == len(values) else [sum(values) / len(values)] * channels
    return torch.tensor(chosen)[:, None, None]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
