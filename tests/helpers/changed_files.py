"""Files that change under their readers."""

import os
from pathlib import Path


def lengthen(file: Path) -> None:
    """Add bytes to a file and keep the time of its last change, as a coarse clock would."""
    before = file.stat()
    file.write_bytes(file.read_bytes() + bytes(512))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
