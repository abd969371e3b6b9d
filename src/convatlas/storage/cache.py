"""The user's cache: values and folders that take long to compute and can be computed again.

Each is checked by SHA-256 when it is read.
"""

import errno
import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from convatlas.errors import UserError, printable
from convatlas.storage.atomic import atomic_output, atomic_write, remove_leftovers
from convatlas.storage.records import from_json, to_json
from convatlas.storage.regular_file import open_regular, read_regular

T = TypeVar("T")
MANIFEST = "manifest.json"


def cache_dir() -> Path:
    """The folder CONVATLAS_CACHE, or `convatlas` in XDG_CACHE_HOME, or `convatlas` in ~/.cache."""
    if folder := os.environ.get("CONVATLAS_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convatlas"


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits. Raises OSError."""
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_entry(kind: str, name: str, type_: type[T]) -> T | None:
    """The cached value of `name`; None when it does not exist, is damaged or is of another type."""
    try:
        content = read_regular(_entry_path(kind, name))
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return msgspec.msgpack.decode(content[32:], type=type_)
    except (OSError, msgspec.DecodeError):
        pass
    return None


def write_entry(kind: str, name: str, value: object) -> None:
    """Cache `value` for `name`. A cache that cannot be written is ignored, since it only saves time."""
    path = _entry_path(kind, name)
    encoded = msgspec.msgpack.encode(value)
    try:
        _prepare(path.parent)
        atomic_write(path, hashlib.sha256(encoded).digest() + encoded)
    except OSError as error:
        _warn_unwritable(error)


def cached(kind: str, name: str, state: list[int], type_: type[T], compute: Callable[[], T]) -> T:
    """The cached value of `name`, or `compute()` where `state` (format, file sizes, modification times)
    differs from the cached one."""
    entry = read_entry(kind, name, tuple[list[int], type_])  # type: ignore[valid-type]
    if entry is not None and entry[0] == state:
        return entry[1]
    value = compute()
    write_entry(kind, name, (state, value))
    return value


def _entry_path(kind: str, name: str) -> Path:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]
    return cache_dir() / kind / f"{digest}.msgpack"


def folder_key(*components: str | None) -> str | None:
    """The name of a cached folder: a hash of everything that its content depends on. None when a component is
    None, that is, unknown: the folder can then not be cached."""
    names = [component for component in components if component is not None]
    return hashlib.sha256("\n".join(names).encode()).hexdigest() if len(names) == len(components) else None


def cached_folder(kind: str, key: str | None, make: Callable[[Path], None]) -> Path | None:
    """The complete folder of that key; `make(folder)` writes it when it is missing or damaged.

    None without a key, and when the cache cannot be written: the caller then works without it.
    """
    if key is None:
        return None
    root = cache_dir() / kind
    folder = root / key
    if _is_complete(folder):
        return folder
    try:
        _prepare(root)
        remove_cached_folder(kind, key)
        with atomic_output(folder) as new:
            new.mkdir()
            make(new)
            atomic_write(new / MANIFEST, to_json({file.name: file_sha256(file) for file in new.iterdir()}))
    except OSError as error:
        if _is_complete(folder):  # another process has written it meanwhile
            return folder
        _warn_unwritable(error)
        return None
    return folder


def remove_cached_folder(kind: str, key: str | None) -> None:
    if key is None:
        return
    folder = cache_dir() / kind / key
    if folder.is_symlink():  # what it points at is not ours
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def private_folder(kind: str) -> Path | None:
    """A folder of the cache for a library that executes what it finds there: the user's own, writable by no
    one else. None where there can be none."""
    folder = cache_dir() / kind
    try:
        _prepare(folder)
        status = os.lstat(folder)
        if status.st_uid != os.getuid() or status.st_mode & 0o022 or not os.access(folder, os.W_OK):
            raise OSError(errno.EACCES, f"{printable(folder)} is not this user's alone, or not writable")
    except OSError as error:
        _warn_unwritable(error)
        return None
    return folder


def _prepare(folder: Path) -> None:
    """Create a folder of the cache, or remove what killed processes have left there. Raises OSError, also for
    a link in its place."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "is a link, and is not written through", str(folder))
    remove_leftovers(folder)


@functools.cache
def _warn_once(message: str) -> None:
    if os.environ.get("RANK", "0") in ("", "0"):  # of several ranks, the first prints
        print(f"convatlas: {message}", file=sys.stderr)


def _warn_unwritable(error: OSError) -> None:
    """Say once that the cache cannot be written: the work is done without it."""
    folder = printable(cache_dir())
    _warn_once(
        f"the cache in {folder} cannot be written ({error.strerror or error}), and what it would hold is "
        "computed each time: make room there, or name another folder in CONVATLAS_CACHE"
    )


def _is_complete(folder: Path) -> bool:
    if folder.is_symlink():
        return False
    try:
        expected = from_json(read_regular(folder / MANIFEST), dict[str, str], MANIFEST)
        return bool(expected) and all(
            file_sha256(folder / file) == digest for file, digest in expected.items()
        )
    except (OSError, UserError):
        return False
