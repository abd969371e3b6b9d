"""What the configuration beside weights of the Hugging Face Hub says: classes, size and normalisation.

timm writes `config.json` with a `pretrained_cfg`; transformers writes `config.json` with `id2label`, and
`preprocessor_config.json`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convatlas.data.sources.labels import validate_class_name
from convatlas.errors import UserError, printable
from convatlas.storage.regular_file import open_regular

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class WeightsConfig:
    """What is known of weights before they are read; None where the configuration does not say."""

    source: str  # for messages
    architecture: str | None = None  # its name in its own library
    classes: tuple[str, ...] | None = None
    input_size: int | None = None
    resize_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_weights_config(folder: Path) -> WeightsConfig | None:
    """The configuration in a folder; None without `config.json`. Raises UserError for one that is damaged."""
    config = _read_json(folder / CONFIG)
    if config is None:
        return None
    pretrained = config.get("pretrained_cfg")
    source = printable(folder / CONFIG)
    if isinstance(pretrained, Mapping):
        return _timm_config(config, pretrained, source)
    return _transformers_config(config, _read_json(folder / PREPROCESSOR) or {}, source)


def _timm_config(config: Mapping[str, Any], pretrained: Mapping[str, Any], source: str) -> WeightsConfig:
    input_shape = pretrained.get("input_size")
    size = _side(input_shape[1:] if isinstance(input_shape, list) else None)
    ratio = pretrained.get("crop_pct")
    has_ratio = size is not None and isinstance(ratio, int | float) and 0 < ratio <= 1
    names = config.get("label_names") or pretrained.get("label_names")
    return WeightsConfig(
        source,
        architecture=_text(config.get("architecture")),
        classes=_classes(dict(enumerate(names)) if isinstance(names, list) else None, source),
        input_size=size,
        resize_size=int(size / ratio) if has_ratio and size is not None and ratio is not None else None,
        mean=_values(pretrained.get("mean"), "mean", source),
        std=_values(pretrained.get("std"), "std", source),
    )


def _transformers_config(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], source: str
) -> WeightsConfig:
    architectures = config.get("architectures")
    crop, shorter = _side(preprocessor.get("crop_size")), _side(preprocessor.get("size"))
    ratio = preprocessor.get("crop_pct")
    input_size, resize_size = shorter, None
    if preprocessor.get("do_center_crop") and crop is not None:
        input_size, resize_size = crop, shorter
    elif shorter is not None and isinstance(ratio, int | float) and 0 < ratio <= 1:
        resize_size = int(shorter / ratio)
    if input_size is None:
        input_size = _side(config.get("image_size"))
    normalizes = preprocessor.get("do_normalize", True)
    return WeightsConfig(
        source,
        architecture=_text(architectures[0]) if isinstance(architectures, list) and architectures else None,
        classes=_classes(config.get("id2label"), source),
        input_size=input_size,
        resize_size=resize_size,
        mean=_values(preprocessor.get("image_mean"), "image_mean", source) if normalizes else (0.0,),
        std=_values(preprocessor.get("image_std"), "image_std", source) if normalizes else (1.0,),
    )


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        with open_regular(file) as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UserError(f"{printable(file)} is too large for a configuration: expected a JSON object")
        content = json.loads(data)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {printable(file)}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{printable(file)} is no JSON: restore it, or import the weights alone") from None
    if not isinstance(content, dict):
        raise UserError(f"{printable(file)} holds no JSON object: restore it, or import the weights alone")
    return content


def _side(size: Any) -> int | None:
    """The side of a square size in any of the libraries' forms; None for others."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or [size.get("height"), size.get("width")]
    if isinstance(size, list) and size and all(side == size[0] for side in size):
        size = size[0]
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _values(values: Any, name: str, source: str) -> tuple[float, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list) or not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    ):
        raise UserError(
            f"{source} gives {printable(values)[:40]!r} as {name}: expected a number for each channel"
        )
    return tuple(map(float, values))


def _classes(id2label: Any, source: str) -> tuple[str, ...] | None:
    """The names in order; None where there are only placeholders (LABEL_0), or where two are equal."""
    if not isinstance(id2label, Mapping) or not id2label:
        return None
    names: dict[int, str] = {}
    for key, name in id2label.items():
        if not (isinstance(key, int) or str(key).isdecimal()) or not isinstance(name, str):
            raise UserError(
                f"{source} names the class {printable(key)[:40]!r} {printable(name)[:40]!r}: expected a name "
                "for each index"
            )
        names[int(key)] = validate_class_name(name, f"{source}, class {key},")
    if sorted(names) != list(range(len(names))):
        raise UserError(
            f"{source} does not name the classes from 0 to {len(names) - 1:,}: correct its id2label"
        )
    if all(name == f"LABEL_{index}" for index, name in names.items()):
        return None
    return tuple(names[index] for index in range(len(names)))
