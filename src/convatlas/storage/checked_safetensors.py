"""Tensors in a safetensors file whose own metadata holds the SHA-256 of everything in the file.

Any safetensors reader opens it. Ours checks the SHA-256 first: a single flipped bit goes unnoticed in 99.7 %
of plain loads.

Layout: the usual 8-byte length and JSON header. Its metadata has one key, `convatlas`, whose value is
canonical JSON with two keys: `document`, and `sha256`, the hash of the whole file with that hash's 64 digits
replaced by zeros. One key, because safetensors writes several in an order that changes from process to
process.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from convatlas.errors import UserError
from convatlas.storage.atomic import FILE_OPS, FileOps, atomic_write
from convatlas.storage.records import to_json
from convatlas.storage.regular_file import open_regular, read_user_file

# ResNet-1202 with its optimiser's state needs 2 MiB; a hostile header of 66 MB takes seconds to parse
MAX_HEADER_BYTES = 8 << 20
# The end of the metadata's value: JSON inside a JSON string, so its quotes are escaped and only the string's
# own is not
_CHECKSUM = re.compile(rb'\\"sha256\\":\\"([0-9a-f]{64})\\"\}"')


class _Header(msgspec.Struct):
    metadata: dict[str, str] = msgspec.field(name="__metadata__")


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    document: msgspec.Raw
    sha256: str


def serialize(tensors: dict[str, Tensor], document: Any) -> bytes:
    """The file's bytes: `tensors` by name, and `document` (anything that `to_json` takes) in the metadata.

    The same tensors and document give the same bytes in every process.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = b'{"document":' + to_json(document) + b',"sha256":"' + b"0" * 64 + b'"}'
    data = bytearray(safetensors.torch.save(contiguous, {"convatlas": metadata.decode()}))
    start = _find_checksum(data).start(1)  # type: ignore[union-attr]
    data[start : start + 64] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def write_checked(path: Path, tensors: dict[str, Tensor], document: Any, ops: FileOps = FILE_OPS) -> None:
    """Serialize and write durably. Raises OSError when the disk refuses."""
    atomic_write(path, serialize(tensors, document), ops)


def read_checked(path: Path) -> tuple[dict[str, Tensor], bytes]:
    """(tensors by name, the document's JSON).

    Raises UserError for a file that is missing, damaged or not of this format.
    """
    data = read_user_file(path)
    header_length = _header_length(data)
    if not 2 <= header_length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise UserError(f"{path} is damaged or not a safetensors file: its header should end inside the file")
    checksum = _find_checksum(data)
    if checksum is None:
        if b'"sha256":"' in data[8 : 8 + header_length]:
            raise UserError(
                f"{path} has format version 1, which ConvAtlas 0.1 wrote: this ConvAtlas reads version 2; "
                "make the file again, or use it with that version"
            )
        raise UserError(f"{path} has no checksum of ConvAtlas: expected a file that ConvAtlas wrote")
    zeroed = hashlib.sha256(data[: checksum.start(1)])
    zeroed.update(b"0" * 64)
    zeroed.update(memoryview(data)[checksum.end(1) :])
    if zeroed.hexdigest().encode() != checksum[1]:
        raise UserError(f"{path} is damaged: its content does not match its SHA-256")
    try:
        header = msgspec.json.decode(data[8 : 8 + header_length], type=_Header)
        metadata = msgspec.json.decode(header.metadata["convatlas"].encode(), type=_Metadata)
        return safetensors.torch.load(data), bytes(metadata.document)
    except (
        ValueError,
        RecursionError,
        safetensors.SafetensorError,
        KeyError,
    ) as error:  # no JSON, no UTF-8, too deep
        raise UserError(f"{path} is not a file that ConvAtlas wrote: {error}") from None


def peek_document(path: Path) -> bytes | None:
    """The document's JSON, without a check of the file: to choose what reads it. None where there is none."""
    try:
        with open_regular(path) as file:
            length = _header_length(file.read(8))
            if length > MAX_HEADER_BYTES:
                return None
            header = msgspec.json.decode(file.read(length), type=_Header)
        metadata = msgspec.json.decode(header.metadata["convatlas"].encode(), type=_Metadata)
    except (OSError, ValueError, RecursionError, KeyError):
        return None
    return bytes(metadata.document)


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes: equal exactly when all tensors are bit-identical."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _find_checksum(data: bytes | bytearray) -> re.Match[bytes] | None:
    return _CHECKSUM.search(data, 8, 8 + _header_length(data))


def _header_length(data: bytes | bytearray) -> int:
    return int.from_bytes(data[:8], "little")
