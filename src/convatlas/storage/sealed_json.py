"""A JSON document with the key `sha256`, the hash of all other bytes of its file: a change shows."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from convatlas.storage.records import to_json

_CHECKSUM = re.compile(
    rb'(?:^  |(?=[^{}]*\}\s*\Z))"sha256": ?"([0-9a-f]{64})"', re.MULTILINE
)  # of the document itself: by its indent, or as the last key


def sealed_json(document: Mapping[str, Any]) -> bytes:
    """The file's bytes: indented canonical JSON. The hash is that of the bytes with its digits as zeros."""
    data = to_json({**document, "sha256": "0" * 64}, indent=2)
    checksum = _CHECKSUM.search(data)
    assert checksum is not None
    return data[: checksum.start(1)] + hashlib.sha256(data).hexdigest().encode() + data[checksum.end(1) :]


def is_sealed(data: bytes) -> bool:
    """Whether the hash is there, and that of the other bytes."""
    checksum = _CHECKSUM.search(data)
    if checksum is None:
        return False
    zeroed = data[: checksum.start(1)] + b"0" * 64 + data[checksum.end(1) :]
    return hashlib.sha256(zeroed).hexdigest().encode() == checksum[1]
