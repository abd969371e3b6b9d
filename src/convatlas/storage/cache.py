"""The user's cache: values and folders that take long to make and can be made again. Each is checked by SHA-256 when it is read."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from convatlas.errors import UserError
from convatlas.storage.atomic import atomic_output, atomic_write
from convatlas.storage.records import from_json, to_json

T = TypeVar("T")
MANIFEST = "manifest.json"


def cache_dir() -> Path:
    """CONVATLAS_CACHE, or `convatlas` in XDG_CACHE_HOME, or in ~/.cache."""
    explicit = os.environ.get("CONVATLAS_CACHE")
    return Path(explicit) if explicit else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convatlas"


def file_sha256(file: Path) -> str:
    """64 hexadecimal digits. Raises OSError."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_entry(kind: str, name: str, type_: type[T]) -> T | None:
    """The cached value of `name`; None where there is none, or it is damaged or of another type."""
    try:
        content = _entry(kind, name).read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return msgspec.msgpack.decode(content[32:], type=type_)
    except (OSError, msgspec.DecodeError):
        pass
    return None


def write_entry(kind: str, name: str, value: object) -> None:
    """Cache `value` for `name`; nothing happens where the cache cannot be written, since it only saves time."""
    entry = _entry(kind, name)
    encoded = msgspec.msgpack.encode(value)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(entry, hashlib.sha256(encoded).digest() + encoded)
    except OSError:
        pass


def cached(kind: str, name: str, state: list[int], type_: type[T], compute: Callable[[], T]) -> T:
    """The cached value of `name`, or `compute()` where `state` (format, sizes, times of change) has changed."""
    entry = read_entry(kind, name, tuple[list[int], type_])  # type: ignore[valid-type]
    if entry is not None and entry[0] == state:
        return entry[1]
    value = compute()
    write_entry(kind, name, (state, value))
    return value


def _entry(kind: str, name: str) -> Path:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]
    return cache_dir() / kind / f"{digest}.msgpack"


def folder_key(*parts: str | None) -> str | None:
    """A folder's name for what it holds; None where a part is None, because it cannot be named."""
    names = [part for part in parts if part is not None]
    return hashlib.sha256("\n".join(names).encode()).hexdigest() if len(names) == len(parts) else None


def cached_folder(kind: str, key: str | None, make: Callable[[Path], None]) -> Path | None:
    """The folder of that key, whole; `make(folder)` writes it when it is missing or damaged.

    None without a key, and where the cache cannot be written: the caller then works without it.
    """
    if key is None:
        return None
    root = cache_dir() / kind
    folder = root / key
    if _is_whole(folder):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_cached_folder(kind, key)
        with atomic_output(folder) as new:
            new.mkdir()
            make(new)
            atomic_write(new / MANIFEST, to_json({file.name: file_sha256(file) for file in new.iterdir()}))
    except OSError:
        return folder if _is_whole(folder) else None  # another process may have written it meanwhile
    return folder


def remove_cached_folder(kind: str, key: str | None) -> None:
    if key is not None:
        shutil.rmtree(cache_dir() / kind / key, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    try:
        expected = from_json((folder / MANIFEST).read_bytes(), dict[str, str], MANIFEST)
        return bool(expected) and all(file_sha256(folder / file) == digest for file, digest in expected.items())
    except (OSError, UserError):
        return False
