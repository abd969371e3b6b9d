"""Weight files: `.safetensors`, and `.pth`, of which nothing but tensors and plain values is read."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from convatlas.classifier.model_file import ModelFile, read_model_file
from convatlas.errors import UserError, printable
from convatlas.models import Architecture
from convatlas.storage.utf8_path import utf8_path

WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model",
    "weights",
)  # averaged weights before the others
PREFIXES = ("module.", "_orig_mod.", "model.")
MAX_WRAPPERS = 4


class WeightFile(NamedTuple):
    tensors: dict[str, Tensor]
    model_file: ModelFile | None  # of a classifier of ConvAtlas; None for another library's file

    @property
    def architecture(self) -> Architecture | None:
        """The network that the file describes, where it does."""
        return None if self.model_file is None else self.model_file.metadata.network


def read_weight_file(path: Path) -> WeightFile:
    """Read tensors by name, without the wrappers of checkpoints and the prefixes of wrapping modules.

    Raises UserError for a file that is missing, damaged or holds anything else.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise UserError(f"cannot read {printable(file)}: {error.strerror}") from None
    if head[8:9] == b"{":
        return _read_safetensors(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about old pickle protocols
            content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(
            f"{printable(file)} holds something other than tensors, or is damaged: expected a state_dict, "
            "which its owner can save alone with torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # hostile bytes can make the reader raise any exception
        reason = str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{printable(file)} is damaged or no weight file ({printable(reason)}): "
            "expected .pth or .safetensors"
        ) from None
    return WeightFile(state_dict_of(content, file), None)


def state_dict_of(content: Any, name: object) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one that a checkpoint wraps. Raises UserError when there is
    none. `name` is that of the content in messages."""
    for _ in range(MAX_WRAPPERS):
        if not isinstance(content, Mapping) or any(isinstance(value, Tensor) for value in content.values()):
            break
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise UserError(f"{printable(name)} holds a {kind}: expected a state_dict, names with their tensors")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(
            f"{printable(name)} holds no tensors: expected a state_dict, alone or under one of "
            f"{', '.join(WRAPPERS)}"
        )
    for key, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise UserError(
                f"{printable(name)} holds a sparse, quantised or empty tensor, {printable(key)}: "
                "expected plain ones"
            )
    for prefix in PREFIXES * 2:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _read_safetensors(file: Path) -> WeightFile:
    try:
        with utf8_path(file) as path:
            with safetensors.safe_open(path, "pt") as opened:
                is_classifier = "convatlas" in (opened.metadata() or {})
            if not is_classifier:
                return WeightFile(state_dict_of(safetensors.torch.load_file(path), file), None)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{printable(file)} is damaged or no safetensors file: {printable(error)}") from None
    model_file = read_model_file(file)
    return WeightFile(model_file.model.state_dict(), model_file)
