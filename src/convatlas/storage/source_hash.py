"""Which code this is: what was computed by other code may be other."""

import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


@cache
def source_sha256(*rooms: str) -> str:
    """SHA-256 of the package's sources, or of those in `rooms`: their names and what is in them."""
    files = sorted(file for folder in ([PACKAGE / room for room in rooms] or [PACKAGE]) for file in folder.rglob("*.py"))
    return hashlib.sha256(b"".join(f"{file.relative_to(PACKAGE)}\n".encode() + file.read_bytes() for file in files)).hexdigest()
