"""Weight files and folders: `.safetensors`, and `.pth`, of which nothing but tensors is read."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from convatlas.classifier.model_file import ModelFile, read_model_file
from convatlas.errors import UserError, printable
from convatlas.interop.checkpoint_pickle import load_checkpoint
from convatlas.interop.file_kinds import describe_other_kind
from convatlas.interop.main_part import main_part
from convatlas.interop.nested_tensors import tensors_of
from convatlas.models import Architecture
from convatlas.storage.regular_file import open_user_file, read_user_file
from convatlas.storage.utf8_path import utf8_path

# What a folder's weights are called, ours and Hugging Face's, the preferred first
FOLDER_NAMES = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
INDEX_SUFFIX = ".index.json"
CONFIG = "config.json"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
MAX_JSON_BYTES = 64 << 20
MAX_SHOWN_FILES = 5


class WeightFile(NamedTuple):
    """What a weight file or folder holds. `content` has all tensors by their whole paths, as `tensors_of`
    lists them."""

    content: dict[str, Tensor]
    model_file: ModelFile | None  # of a classifier of ConvAtlas; None for another library's file
    config: Mapping[str, Any] | None = None  # the config.json beside another library's weights

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the main part, by their names in it."""
        return self.content if self.model_file else main_part(self.content)

    @property
    def architecture(self) -> Architecture | None:
        """The network that the file describes, where it does."""
        return None if self.model_file is None else self.model_file.metadata.network


def read_weight_file(path: Path) -> WeightFile:
    """Read the tensors of a file, or of the weights that a folder holds.

    Raises UserError, which says what the file is, for one that is missing, damaged or holds anything else.
    """
    file = find_weights(path)
    if file.name.endswith(INDEX_SUFFIX):
        tensors: dict[str, Tensor] = {}
        for shard in _shards(file):
            tensors |= _read_file(shard).content
        absent = [name for name in _weight_map(file) if name not in tensors]
        if absent:
            raise UserError(
                f"the shards of {printable(file)} lack {printable(absent[0])}: download them again"
            )
        return WeightFile(tensors, None, _read_config(file))
    weights = _read_file(file)
    return weights if weights.model_file else weights._replace(config=_read_config(file))


def weights_sha256(path: Path) -> str:
    """The SHA-256 of a weight file, or of the weights that a folder holds; of shards, that of their
    SHA-256s one after another. Raises UserError for a file that cannot be read."""
    file = find_weights(path)
    files = [file, *_shards(file)] if file.name.endswith(INDEX_SUFFIX) else [file]
    digests = []
    for part in files:
        with open_user_file(part) as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def find_weights(path: Path) -> Path:
    """The file of weights, or the index of shards, that a path names or a folder holds.

    Raises UserError for a folder without weights, or with several files that could be meant.
    """
    if not path.is_dir():
        return path
    for name in FOLDER_NAMES:
        if (path / name).is_file():
            return path / name
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror}") from None
    candidates = [name for name in names if name.endswith(SUFFIXES)]
    if len(candidates) == 1:
        return path / candidates[0]
    shown = ", ".join(map(printable, (candidates or names)[:MAX_SHOWN_FILES])) or "nothing"
    shown += ", ..." if len(candidates or names) > MAX_SHOWN_FILES else ""
    if candidates:
        raise UserError(f"{printable(path)} holds several weight files ({shown}): give one of them")
    if "run.json" in names:
        raise UserError(
            f"{printable(path)} is a run that has not ended, without model.safetensors: finish it with "
            f"convatlas train --resume {printable(path)}"
        )
    if "saved_model.pb" in names:
        raise UserError(
            f"{printable(path)} is a SavedModel of TensorFlow: save its tensors by name as safetensors there"
        )
    raise UserError(
        f"{printable(path)} holds {shown}, but no weights: expected {' or '.join(FOLDER_NAMES[::2])} in it"
    )


def _read_file(file: Path) -> WeightFile:
    with open_user_file(file) as stream:
        description = describe_other_kind(stream, file)
        if description:
            raise UserError(f"{printable(file)} {printable(description)}")
        head = stream.read(16)
        if head[8:9] == b"{":
            _check_safetensors_length(stream, head, file)
            return _read_safetensors(file)
        content = load_checkpoint(stream, file)
    tensors = tensors_of(content)
    if not tensors:
        kind = type(content).__name__
        raise UserError(
            f"{printable(file)} holds no tensors, but a {kind}: expected names with their tensors"
        )
    return WeightFile(tensors, None)


def _check_safetensors_length(stream: BinaryIO, head: bytes, file: Path) -> None:
    size = stream.seek(0, 2)
    length = int.from_bytes(head[:8], "little")
    if length > size - 8:
        raise UserError(
            f"{printable(file)} is truncated or no safetensors file: its header would have {length:,} bytes, "
            f"but the file has {size:,}; download or copy it again"
        )


def _read_safetensors(file: Path) -> WeightFile:
    try:
        with utf8_path(file) as path:
            with safetensors.safe_open(path, "pt") as opened:
                is_classifier = "convatlas" in (opened.metadata() or {})
            if not is_classifier:
                return WeightFile(tensors_of(safetensors.torch.load_file(path)), None)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{printable(file)} is damaged, truncated or no safetensors file ({printable(error)}): download "
            "or copy it again"
        ) from None
    model_file = read_model_file(file)
    return WeightFile(model_file.model.state_dict(), model_file)


def _weight_map(index: Path) -> dict[str, str]:
    """The names of the tensors in a sharded file, and the file of each, from its index."""
    document = _read_json(index)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{printable(index)} has no weight_map: expected the index of a sharded file")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w][\w.\-]*", shard):
            raise UserError(
                f"{printable(index)} names the shard {printable(shard)}: expected a file beside the index"
            )
    return weight_map


def _shards(index: Path) -> list[Path]:
    return [index.with_name(shard) for shard in sorted(set(_weight_map(index).values()))]


def _read_config(file: Path) -> Mapping[str, Any] | None:
    """The config.json beside weights that have one of Hugging Face's names; None where there is none."""
    config = file.with_name(CONFIG)
    if file.name not in FOLDER_NAMES or not config.is_file():
        return None
    document = _read_json(config)
    return document if isinstance(document, dict) else None


def _read_json(file: Path) -> Any:
    with open_user_file(file) as stream:
        too_large = stream.seek(0, 2) > MAX_JSON_BYTES
    if too_large:
        raise UserError(f"{printable(file)} is too large for a description of weights: download it again")
    try:
        return json.loads(read_user_file(file))
    except (ValueError, RecursionError):
        raise UserError(f"{printable(file)} is no JSON: download it again") from None
