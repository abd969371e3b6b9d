"""A hash of every file of a data set, computed once: files that keep their size and time of change are not read again."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from convatlas.runtime.device import usable_cores
from convatlas.runtime.progress import track
from convatlas.storage.cache import read_entry, write_entry

LENGTH = 16  # bytes of a SHA-256
CHUNK = 500  # files that are waited for at a time


def content_hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:LENGTH]


def hash_files(root: Path, names: Sequence[str]) -> list[bytes]:
    """Of every file under `root`; of one that cannot be read, a hash of its name."""
    known = read_entry("content-hashes", str(root.resolve()), dict[str, tuple[int, int, bytes]]) or {}
    stats = [_stat(root / name) for name in names]
    found = [known[name][2] if name in known and known[name][:2] == stat else b"" for name, stat in zip(names, stats, strict=True)]
    missing = [i for i, digest in enumerate(found) if not digest]
    if missing:
        with ThreadPoolExecutor(usable_cores()) as pool:  # hashing and reading leave the interpreter to others
            pieces = (missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK))
            digests = (item for piece in pieces for item in zip(piece, pool.map(lambda i: _digest(root, names[i]), piece), strict=True))
            for i, digest in track(digests, len(missing), "reading files once"):
                found[i] = digest
        for name, stat, digest in zip(names, stats, found, strict=True):
            if stat != (0, 0):
                known[name] = *stat, digest
        write_entry("content-hashes", str(root.resolve()), known)
    return found


def _stat(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _digest(root: Path, name: str) -> bytes:
    try:
        with open(root / name, "rb") as content:
            return hashlib.file_digest(content, "sha256").digest()[:LENGTH]
    except OSError:
        return content_hash(b"unreadable " + name.encode(errors="surrogateescape"))
