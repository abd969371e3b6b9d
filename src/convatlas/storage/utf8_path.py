"""Paths for libraries that take only UTF-8, such as readers written in Rust and C++."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def utf8_path(file: Path) -> Iterator[Path]:
    """A path in UTF-8 by which an existing file can be read: its own, or that of a temporary link to it."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "file"
            link.symlink_to(file.absolute())
            yield link
    else:
        yield file
