"""What took long to make and can be made again, in the user's cache: folders by name, each with the SHA-256 of its files."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from convatlas.data.locate import cache_folder
from convatlas.errors import UserError
from convatlas.storage.disk import replace, staged
from convatlas.storage.records import from_json, to_json

MANIFEST = "manifest.json"


def name(*what: str | None) -> str | None:
    """A folder's name for what it holds; None where part of that cannot be named."""
    parts = [part for part in what if part is not None]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest() if len(parts) == len(what) else None


def kept(name: str | None, make: Callable[[Path], None]) -> Path | None:
    """The folder of that name, whole; made by `make(folder)` where it is not there yet or is damaged. None without a name, and where the
    cache cannot be written: then the caller does without."""
    if name is None:
        return None
    folder = _root() / name
    if _is_whole(folder):
        return folder
    try:
        _root().mkdir(parents=True, exist_ok=True, mode=0o700)
        forget(name)
        with staged(folder) as new:
            new.mkdir()
            make(new)
            replace(new / MANIFEST, to_json({file.name: _sha256(file) for file in new.iterdir()}))
    except OSError:
        return folder if _is_whole(folder) else None  # another process may have been first
    return folder


def forget(name: str | None) -> None:
    if name is not None:
        shutil.rmtree(_root() / name, ignore_errors=True)


def _root() -> Path:
    return cache_folder() / "engines"


def _is_whole(folder: Path) -> bool:
    try:
        expected = from_json((folder / MANIFEST).read_bytes(), dict[str, str], MANIFEST)
        return bool(expected) and all(_sha256(folder / file) == digest for file, digest in expected.items())
    except (OSError, UserError):
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
