"""A file from the network: fetched into a file beside its place, resumed where it stopped, checked, then
moved."""

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from convatlas.errors import UserError, printable
from convatlas.storage.atomic import FILE_OPS
from convatlas.storage.lock import folder_lock
from convatlas.storage.regular_file import open_unlinked

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0  # without a byte
LOCK_SECONDS = 3600.0  # for another process that fetches into the same folder

Track = Callable[[Iterator[None], int, str], Iterable[None]]
"""(steps, their number, what they do) -> the steps, shown as they are done"""


def download_file(url: str, path: Path, check: Callable[[Path], str], track: Track) -> None:
    """Fetch `url` into the file `path`, unless it is there.

    `check` gives what is wrong with a complete file, "" if nothing is; a wrong file is deleted. `track` shows
    the progress in MiB. Raises UserError when the file cannot be fetched; the part that has arrived is kept,
    and the next call continues there.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with folder_lock(path.parent, LOCK_SECONDS):
        if path.exists():  # another process was first
            return
        try:
            _fetch(url, part, track, path.name)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            arrived = part.stat().st_size if part.exists() else 0
            again = f"; {arrived:,} bytes have arrived: try again to continue" * bool(arrived)
            raise UserError(f"cannot fetch {printable(url)} ({printable(error)}){again}") from None
        if problem := check(part):
            part.unlink()
            raise UserError(f"{printable(url)} {problem}: nothing was kept; try again later")
        FILE_OPS.rename(part, path)
        FILE_OPS.fsync_folder(path.parent)


def _fetch(url: str, part: Path, track: Track, name: str) -> None:
    """Append to `part` what it lacks, and sync it to the disk."""
    if not url.startswith(("https://", "http://")):
        raise ValueError("expected an address that begins with https:// or http://")
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return  # it is complete
        part.unlink()
        return _fetch(url, part, track, name)
    with response:
        continues = response.status == http.client.PARTIAL_CONTENT and str(
            response.headers.get("Content-Range", "")
        ).startswith(f"bytes {start}-")
        start = start if continues else 0  # a server may send the whole file instead
        length = response.headers.get("Content-Length")
        end = start + int(length) if length else None
        num_chunks = max(1, -(-((end or 0) - start) // CHUNK_BYTES))
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if continues else os.O_TRUNC)
        with os.fdopen(open_unlinked(part, flags), "ab" if continues else "wb") as file:
            for _ in track(_copy_chunks(response, file), num_chunks, f"fetching {name}, MiB"):
                pass
            file.flush()
            os.fsync(file.fileno())
            if end is not None and file.tell() != end:
                raise ValueError(f"the connection ended after {file.tell():,} of {end:,} bytes")


def _copy_chunks(response: http.client.HTTPResponse, file: object) -> Iterator[None]:
    while chunk := response.read(CHUNK_BYTES):
        file.write(chunk)  # type: ignore[attr-defined]
        yield
