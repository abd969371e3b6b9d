"""Import another library's weights as a classifier: its network, its classes and the preprocessing that the
weights were trained with."""

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
from convatlas.interop.weight_file import WeightFile, read_weight_file
from convatlas.models import Network
from convatlas.storage.cache import file_sha256
from convatlas.storage.regular_file import open_regular

MAX_CLASSES_BYTES = 16 << 20


def import_classifier(
    file: str | Path, model: str, edition: str | None = None, classes: str | Path | None = None
) -> Classifier:
    """Read a weight file of torchvision, timm or pytorchcv (or a state dict of the atlas) as a classifier.

    Without `edition`, the first edition is used that the weights fit. `classes` is a file of class names, one
    a line or a JSON list; without it the names are numbers. Raises UserError when the weights fit no edition
    or the file cannot be used.
    """
    file = Path(file)
    if models.get_entry(model, edition or "paper").task != "classification":
        raise UsageError(
            f"{model} labels every pixel: import takes networks that classify images, load_weights takes any"
        )
    weights = read_weight_file(file)
    if weights.model_file is not None:
        raise UsageError(
            f"{printable(file)} is a classifier of ConvAtlas already: use it as it is, with predict or eval"
        )
    return classifier_of(weights, file, file_sha256(file), model, edition, classes)


def classifier_of(
    weights: WeightFile,
    file: Path,
    sha256: str,
    model: str,
    edition: str | None = None,
    classes: str | Path | None = None,
) -> Classifier:
    """The classifier of another library's weights that were read from `file`, as `import_classifier`."""
    meta_network, match = _match_edition(model, edition, weights.tensors, file)
    architecture = meta_network.architecture
    assert architecture is not None
    num_classes = int(architecture.arguments["num_classes"])  # type: ignore[arg-type]
    class_names = tuple(map(str, range(num_classes)))
    if classes is not None:
        class_names = _read_class_names(Path(classes))
        if len(class_names) != num_classes:
            raise UserError(
                f"{printable(classes)} names {len(class_names)} classes, "
                f"but the weights of {printable(file)} are for {num_classes}"
            )
    network = models.build(architecture)
    load_weights(network, weights.tensors, match.source)
    mapping = SOURCES[match.source][model] if match.source in SOURCES else None
    input_size = mapping.input_size if mapping else models.get_entry(model).input[1]
    resize_size = mapping.resize_size if mapping else input_size * 8 // 7
    mean_std = mapping.mean_std if mapping else IMAGENET
    metadata = ClassifierMetadata(
        format=FORMAT,
        network=architecture,
        classes=class_names,
        preprocessing=Preprocessing(
            channels=network.in_chans,
            resize_size=(resize_size, resize_size),
            input_size=(input_size, input_size),
            mode="crop" if resize_size > input_size else "none",
        ),
        precision="fp32",
        batch=32,
        provenance={"imported": file.name, "sha256": sha256, "source": match.source},
        metrics={},
    )
    mean, std = (_channel_values(values, network.in_chans) for values in mean_std)
    return Classifier(metadata, network, Normalizer(mean, std))


def _match_edition(
    model: str, edition: str | None, tensors: dict[str, Tensor], file: Path
) -> tuple[Network, StateDictMatch]:
    """The network, on meta tensors, whose state dict the weights are, and their match: of `edition`, or of
    the first edition that they fit.

    Raises UserError that names the edition that the weights do fit, or the nearest.
    """
    matches: list[tuple[Network, StateDictMatch]] = []
    for candidate in models.editions(model):
        has_aux = "aux" in models.get_entry(model).default_arguments(candidate)
        for source in (*SOURCES, "convatlas"):
            for aux in (True, False) if has_aux else (None,):
                arguments: dict[str, Any] = {} if aux is None else {"aux": aux}
                with torch.device("meta"):
                    default = models.create_model(model, edition=candidate, **arguments)
                    arguments |= _infer_arguments(default, tensors, source)
                    network = models.create_model(model, edition=candidate, **arguments)
                match = match_state_dict(network, tensors, source)
                if match is None:
                    continue
                matches.append((network, match))
                if match.exact and edition in (None, candidate):
                    return network, match
    network, match = min(matches, key=lambda pair: pair[1].distance)
    nearest = network.architecture.edition if network.architecture else ""
    if match.exact:
        raise UserError(
            f"{printable(file)} holds {match.source}'s {model}, which is edition {nearest} "
            f"and not {edition}: leave out --edition"
        )
    raise UserError(
        f"{printable(file)} fits no edition of {model}; "
        f"the nearest is {nearest} under {match.source}'s names: {match}"
    )


def _infer_arguments(default: Network, tensors: dict[str, Tensor], source: str) -> dict[str, int]:
    """The number of classes and of input channels, from the shapes of the last and the first layer's weights;
    without those whose tensor does not exist."""
    assert default.architecture is not None
    rename = rename_fn(source, default.architecture)
    if rename is None:
        return {}
    keys = list(default.state_dict())
    arguments = {}
    for name, key, axis in (("num_classes", f"{default.classifier}.weight", 0), ("in_chans", keys[0], 1)):
        tensor = tensors.get(rename(key, default)) if key in keys else None
        if tensor is not None and tensor.dim() > axis:
            arguments[name] = tensor.shape[axis]
    return arguments


def _read_class_names(file: Path) -> tuple[str, ...]:
    expected = "expected one class name a line, or a JSON list"
    try:
        with open_regular(file) as stream:
            content = stream.read(MAX_CLASSES_BYTES + 1)
        if len(content) > MAX_CLASSES_BYTES:
            raise UserError(f"{printable(file)} is too large for a list of class names: {expected}")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {printable(file)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{printable(file)} is not UTF-8 text: {expected}") from None
    if text.lstrip().startswith("["):
        try:
            names = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            raise UserError(f"{printable(file)} begins like a JSON list but is none: {expected}") from None
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{printable(file)} holds something other than names: {expected} of them")
    if len(set(names)) != len(names):
        duplicate = next(name for i, name in enumerate(names) if name in names[:i])
        raise UserError(
            f"{printable(file)} names the class {printable(duplicate)!r} twice: each class needs its own name"
        )
    return tuple(names)


def _channel_values(values: tuple[float, ...], num_channels: int) -> Tensor:
    """The values as (channels, 1, 1); if the number of channels differs, the mean of the values for each."""
    if num_channels != len(values):
        values = (sum(values) / len(values),) * num_channels
    return torch.tensor(values)[:, None, None]
