"""Files and folders that a data set does not use, counted by reason."""

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import NamedTuple

from convatlas.errors import printable

MAX_NAMES = 3  # folders that are named for a reason
MAX_REASONS = 8
# images all the same, in formats that are not read: a user may think that they are
UNREADABLE_FORMATS = {
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".svg", ".psd", ".xcf", ".ico", ".tga"),
    *(".exr", ".hdr", ".dcm", ".raw", ".cr2", ".cr3", ".crw", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"),
    *(".pef", ".srw"),
}
NO_CLASS = "not in the folder of a class"
NO_IMAGES = "without images"


class PassedOver(NamedTuple):
    """A file or folder that is not used; `name` is relative to the data set's folder."""

    name: str
    reason: str
    is_folder: bool = False


def extension_reason(name: str) -> str:
    """The reason why a file that is not an image is passed over: its extension."""
    extension = PurePath(name).suffix.lower()
    if extension in UNREADABLE_FORMATS:
        return f"{extension} (not readable here)"
    return extension or "no extension"


def describe_passed_over(entries: Sequence[PassedOver]) -> str:
    """`14 files: 9 .txt, 5 .heic (not readable here); 1 folder: runs/a (a run's folder)`; empty if none."""
    files = _names_by_reason(entry for entry in entries if not entry.is_folder)
    folders = _names_by_reason(entry for entry in entries if entry.is_folder)
    parts = []
    if files:
        counts = [f"{len(names):,} {reason}" for reason, names in files]
        parts.append(f"{_count(files, 'file')}: {_join(counts)}")
    if folders:
        lists = [f"{_join(names, MAX_NAMES)} ({reason})" for reason, names in folders]
        parts.append(f"{_count(folders, 'folder')}: {_join(lists)}")
    return printable("; ".join(parts))


def _names_by_reason(entries: Iterable[PassedOver]) -> list[tuple[str, list[str]]]:
    """The names of each reason, the most frequent reason first."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        names.setdefault(entry.reason, []).append(entry.name)
    return sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))


def _count(names_by_reason: Sequence[tuple[str, Sequence[str]]], noun: str) -> str:
    count = sum(len(names) for _, names in names_by_reason)
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _join(texts: Sequence[str], limit: int = MAX_REASONS) -> str:
    more = f" and {len(texts) - limit:,} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more
