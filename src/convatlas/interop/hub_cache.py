"""Repositories of the Hugging Face Hub in the user's cache, for use without a connection.

The layout is the Hub's own: `snapshots/COMMIT/` holds links to files in `blobs/`, where a large file's name
is its SHA-256, and `refs/REVISION` the commit of a branch or a tag when it was last fetched.
"""

import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

from convatlas.storage.atomic import atomic_write
from convatlas.storage.cache import cache_dir

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def hub_cache_dir() -> Path:
    return cache_dir() / "hub"


def store_ref(name: str, revision: str, commit: str) -> None:
    """Remember the commit of a branch or a tag, unless the cache cannot be written."""
    file = _ref_file(name, revision)
    if _COMMIT.fullmatch(revision) or file is None or _read(file) == commit:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, commit.encode())


def cached_snapshot(name: str, revision: str) -> Path | None:
    """The folder of the files at a revision: at a commit by its whole hash, or at a branch or a tag that was
    fetched before. None where the cache has no weights of it."""
    file = _ref_file(name, revision)
    commit = revision if _COMMIT.fullmatch(revision) else _read(file) if file is not None else ""
    if not _COMMIT.fullmatch(commit):
        return None
    snapshot = _repository_folder(name) / "snapshots" / commit
    return snapshot if any(file.is_file() for file in snapshot.glob("*.safetensors")) else None


def sha256_in_cache(file: Path) -> str | None:
    """The SHA-256 that the cache gives for a file of a snapshot; None for a small file."""
    blob = file.resolve().name
    return blob if _SHA256.fullmatch(blob) else None


def _repository_folder(name: str) -> Path:
    return hub_cache_dir() / f"models--{name.replace('/', '--')}"


def _ref_file(name: str, revision: str) -> Path | None:
    """None for a revision that would lead out of the folder."""
    path = PurePosixPath(revision)
    if path.is_absolute() or ".." in path.parts or "\0" in revision:
        return None
    return _repository_folder(name) / "refs" / path


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
