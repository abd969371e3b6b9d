"""Weight files of other libraries: `.safetensors`, and `.pth` read as nothing but tensors and plain values."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from convatlas.classifier import ClassifierMetadata
from convatlas.errors import UserError, printable
from convatlas.models import Architecture
from convatlas.storage import checked_safetensors
from convatlas.storage.records import from_json

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "weights")  # averaged weights first: they are what is evaluated
PREFIXES = ("module.", "_orig_mod.", "model.")
MAX_WRAPPERS = 4


class WeightFile(NamedTuple):
    tensors: dict[str, Tensor]
    network: Architecture | None  # of a classifier of our own, which knows it


def read_weight_file(path: Path) -> WeightFile:
    """Tensors by name, wrappers and prefixes taken off. Raises UserError for a file that is missing, damaged or holds anything else."""
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            start = stream.read(16)
    except OSError as error:
        raise UserError(f"cannot read {printable(file)}: {error.strerror}") from None
    if start[8:9] == b"{":
        return _safetensors(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on the pickle's protocol
            content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(
            f"{printable(file)} holds something other than tensors, or is damaged: expected a state_dict, "
            "which its owner can save alone with torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # hostile bytes make the reader raise whatever they like
        reason = str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{printable(file)} is damaged or no weight file ({printable(reason)}): expected .pth or .safetensors") from None
    return WeightFile(tensors_of(content, file), None)


def tensors_of(content: Any, what: object) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one that a checkpoint wraps. Raises UserError when there is none."""
    for _ in range(MAX_WRAPPERS):
        if not isinstance(content, Mapping) or any(isinstance(value, Tensor) for value in content.values()):
            break
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping):
        raise UserError(f"{printable(what)} holds a {type(content).__name__}: expected a state_dict, names with their tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{printable(what)} holds no tensors: expected a state_dict, alone or under one of {', '.join(WRAPPERS)}")
    odd = next((name for name, value in tensors.items() if value.layout is not torch.strided or value.is_quantized or value.is_meta), None)
    if odd is not None:
        raise UserError(f"{printable(what)} holds a sparse, quantised or empty tensor, {printable(odd)}: expected plain ones")
    for prefix in PREFIXES * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _safetensors(file: Path) -> WeightFile:
    try:
        with safetensors.safe_open(file, "pt") as opened:
            ours = "convatlas" in (opened.metadata() or {})
        if not ours:
            return WeightFile(tensors_of(safetensors.torch.load_file(file), file), None)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{printable(file)} is damaged or no safetensors file: {printable(error)}") from None
    tensors, document = checked_safetensors.read_checked(file)
    card = from_json(document, ClassifierMetadata, f"{file}, its metadata")
    return WeightFile({name: value for name, value in tensors.items() if not name.startswith("preprocessing.")}, card.network)
