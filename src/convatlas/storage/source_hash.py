"""The version of the source code, as a hash: other code may compute other results."""

import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


@cache
def source_sha256(*folders: str) -> str:
    """SHA-256 of the names and contents of the package's source files, or of those in its `folders`."""
    roots = [PACKAGE / folder for folder in folders] or [PACKAGE]
    files = sorted(file for root in roots for file in root.rglob("*.py"))
    contents = (f"{file.relative_to(PACKAGE)}\n".encode() + file.read_bytes() for file in files)
    return hashlib.sha256(b"".join(contents)).hexdigest()
