"""Hashes of the files of a data set, computed once.

A file that keeps its size and modification time is not read again.
"""

import hashlib
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from convatlas.runtime.num_threads import usable_cores
from convatlas.runtime.progress import track
from convatlas.storage.cache import read_entry, write_entry
from convatlas.storage.regular_file import open_regular

LENGTH = 16  # bytes of a SHA-256 that make a hash
BATCH = 500  # files that are submitted to the threads at a time

CachedHash = tuple[int, int, bytes]  # size and modification time in nanoseconds of a file, and its hash


def content_hash(data: bytes) -> bytes:
    """The first LENGTH bytes of the SHA-256."""
    return hashlib.sha256(data).digest()[:LENGTH]


def hash_files(root: Path, names: Sequence[str]) -> list[bytes]:
    """The content hash of every file under `root`; for a file that cannot be read, a hash of its name."""
    keys = [name.encode(errors="surrogateescape") for name in names]  # a name need not be UTF-8
    stats = [_stat(root / name) for name in names]
    entries = read_entry("content-hashes", str(root.resolve()), dict[bytes, CachedHash]) or {}
    hashes: list[bytes | None] = []
    for key, state in zip(keys, stats, strict=True):
        entry = entries.get(key)
        hashes.append(entry[2] if entry and entry[:2] == state else None)

    missing = [index for index, digest in enumerate(hashes) if digest is None]
    if missing:
        with ThreadPoolExecutor(usable_cores()) as pool:  # reading and hashing release the interpreter's lock
            batches = (missing[start : start + BATCH] for start in range(0, len(missing), BATCH))
            results = (
                result
                for batch in batches
                for result in zip(batch, pool.map(lambda i: _hash_file(root / names[i]), batch), strict=True)
            )
            for index, digest in track(results, len(missing), "reading files once"):
                hashes[index] = digest
        for key, state, digest in zip(keys, stats, hashes, strict=True):
            if state and digest:
                entries[key] = *state, digest
        write_entry("content-hashes", str(root.resolve()), entries)
    return [digest or content_hash(b"unreadable " + key) for key, digest in zip(keys, hashes, strict=True)]


def _stat(file: Path) -> tuple[int, int] | None:
    """The size and the modification time in nanoseconds; None if it is not a file."""
    try:
        status = file.stat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _hash_file(file: Path) -> bytes | None:
    """The hash of the content; None if it cannot be read, or is not a file: a pipe may never end."""
    try:
        with open_regular(file) as content:
            return hashlib.file_digest(content, "sha256").digest()[:LENGTH]
    except OSError:
        return None
