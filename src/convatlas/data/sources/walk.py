"""Walk the folders of a data set: every directory once, and a reason for everything that is passed over.

A directory is known by its device and inode. Directories of the tree itself come before links, so a link can
never take the place of the folder that it leads to; links that lead out of the tree are followed once, links
to a folder above them never. What ConvAtlas, operating systems and other programs write beside photographs is
not data: runs, caches, hidden folders.
"""

import heapq
import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from convatlas.data.images.decode import EXTENSIONS
from convatlas.data.images.file_format import is_image_by_content
from convatlas.data.sources.passed_over import NO_IMAGES, PassedOver, extension_reason
from convatlas.data.sources.quarantine import NAME
from convatlas.storage.cache import cache_dir

PROGRAM_FOLDERS = {
    *("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
    *("__pycache__", "node_modules", "site-packages"),
}
# what a folder is that holds a file of this name
MARKERS = {
    "run.json": "a run's folder",
    "evaluation.json": "a report's folder",
    "CACHEDIR.TAG": "a cache",
    "pyvenv.cfg": "a Python environment",
}


class FolderListing(NamedTuple):
    """The image files below a folder, in the order of their folders, and everything that is passed over.

    Names are relative to the folder. Links to files that do not exist are listed: reading them reports them.
    """

    images: list[str]
    passed_over: list[PassedOver]


def list_images(root: Path, folders: Collection[str] | None = None) -> FolderListing:
    """The images below `root`; with `folders`, below these folders in it only.

    A file is an image by its extension, or by its content if it has another extension or none.
    """
    walk = _Walk(root, folders)
    walk.run()
    images = sorted(walk.images, key=_walk_order) if walk.links_followed else walk.images
    return FolderListing(images, sorted(walk.passed_over))


def describe_error(error: OSError) -> str:
    return f"cannot be read: {error.strerror}"


def _walk_order(name: str) -> list[tuple[bool, str]]:
    """Sorts names as a walk meets them: the files of a folder before its subfolders."""
    *parents, file = name.split("/")
    return [*((True, parent) for parent in parents), (False, file)]


class _Walk:
    def __init__(self, root: Path, folders: Collection[str] | None):
        self.root = str(root)
        self.folders = folders
        self.images: list[str] = []
        self.passed_over: list[PassedOver] = []
        self.links: list[str] = []  # to directories; a heap
        self.links_followed = False
        self.directories: list[str] = []
        self.visited: dict[object, str] = {}  # the name under which each directory was read
        self.cache = _identity(cache_dir())

    def run(self) -> None:
        self._walk_directories("")
        while self.links:
            name = heapq.heappop(self.links)
            if self._leads_up(name):
                self._pass_over(name, "a link to a folder above it")
            else:
                self.links_followed = True
                self._walk_directories(name)
        self._pass_over_empty_folders()

    def _walk_directories(self, start: str) -> None:
        """Walk a directory and all below it; links to directories are queued."""
        stack = [start]
        while stack:
            name = stack.pop()
            path = os.path.join(self.root, name)
            identity = _identity(path)
            if identity in self.visited:
                self._pass_over(name, f"read already as {self.visited[identity]}")
                continue
            if identity is not None:
                self.visited[identity] = name or "."
            try:
                with os.scandir(path) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError as error:
                self._pass_over(name or ".", describe_error(error))
                continue
            marker = next((MARKERS[entry.name] for entry in entries if entry.name in MARKERS), None)
            if identity == self.cache:
                marker = "the cache"
            if name and marker:
                self._pass_over(name, marker)
                continue
            self.directories.append(name)
            stack += reversed([subfolder for entry in entries if (subfolder := self._take(entry, name))])

    def _take(self, entry: os.DirEntry[str], parent: str) -> str | None:
        """List a file, queue a link, or return the name of a directory to walk."""
        name = f"{parent}/{entry.name}" if parent else entry.name
        try:
            is_directory = entry.is_dir()
            if entry.name.startswith("."):
                self._pass_over(name, "hidden", is_directory)
            elif not is_directory:
                self._take_file(entry, name)
            elif entry.name in PROGRAM_FOLDERS:
                self._pass_over(name, "a program's own folder")
            elif not parent and self.folders is not None and entry.name not in self.folders:
                self._pass_over(name, "beside the splits")
            elif entry.is_symlink():
                heapq.heappush(self.links, name)
            else:
                return name
        except OSError as error:
            self._pass_over(name, describe_error(error), is_folder=False)
        return None

    def _take_file(self, entry: os.DirEntry[str], name: str) -> None:
        is_named_image = entry.name.lower().endswith(EXTENSIONS)
        if entry.is_file():
            if is_named_image or (entry.name != NAME and is_image_by_content(Path(entry.path))):
                self.images.append(name)
            elif entry.name != NAME:
                self._pass_over(name, extension_reason(entry.name), is_folder=False)
        elif not entry.is_symlink() or os.path.exists(entry.path):
            self._pass_over(name, "not a file", is_folder=False)
        elif is_named_image:
            self.images.append(name)
        else:
            self._pass_over(name, "a link to nothing", is_folder=False)

    def _leads_up(self, link: str) -> bool:
        """Whether a link leads to a folder in which it lies itself."""
        path = os.path.join(self.root, link)
        target = os.path.realpath(path)
        return os.path.commonpath([target, os.path.realpath(os.path.dirname(path))]) == target

    def _pass_over(self, name: str, reason: str, is_folder: bool = True) -> None:
        self.passed_over.append(PassedOver(name, reason, is_folder))

    def _pass_over_empty_folders(self) -> None:
        """Name every folder without an image, unless it is in another or holds a folder that is named."""
        explained = _ancestors([*self.images, *(entry.name for entry in self.passed_over if entry.is_folder)])
        empty = {name for name in self.directories if name and name not in explained}
        for name in sorted(empty):
            if os.path.dirname(name) not in empty:
                self._pass_over(name, NO_IMAGES)


def _identity(path: str | Path) -> object:
    """What tells directories apart, whatever their names; None for one that does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return None
    # some network file systems have no inodes
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _ancestors(names: Iterable[str]) -> set[str]:
    """All folders above the named files and folders."""
    folders: set[str] = set()
    for name in names:
        while (name := os.path.dirname(name)) and name not in folders:
            folders.add(name)
    return folders
