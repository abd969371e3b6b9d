"""A disk that records every call, so that a test can try each state in which a power cut could have left
it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from convatlas.storage.atomic import FileOps

Call = tuple[str, str, bytes | str | int]  # the method, the path, and the method's argument ("" without one)


@dataclass
class RecordingDisk(FileOps):
    """Runs every call on the real disk, and records it."""

    log: list[Call] = field(default_factory=list)
    paths: dict[int, str] = field(default_factory=dict)  # by file descriptor

    def open_new(self, path: Path) -> int:
        file = super().open_new(path)
        self.paths[file] = str(path)
        self.log.append(("open_new", str(path), ""))
        return file

    def open_append(self, path: Path) -> int:
        existed = path.exists()
        file = super().open_append(path)
        self.paths[file] = str(path)
        if not existed:
            self.log.append(("open_new", str(path), ""))
        return file

    def write(self, file: int, data: bytes) -> None:
        super().write(file, data)
        self.log.append(("write", self.paths[file], bytes(data)))

    def fsync(self, file: int) -> None:
        super().fsync(file)
        self.log.append(("fsync", self.paths[file], ""))

    def truncate(self, file: int, length: int) -> None:
        super().truncate(file, length)
        self.log.append(("truncate", self.paths[file], length))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.log.append(("rename", str(source), str(target)))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.log.append(("remove", str(path), ""))

    def fsync_folder(self, folder: Path) -> None:
        super().fsync_folder(folder)
        self.log.append(("fsync_folder", str(folder), ""))

    def crash_states(self) -> Iterator[dict[str, bytes]]:
        """The files' contents by path after a crash, for every prefix of the log and three fates of the data
        that was not synced: all of it written, all of it lost, or torn in the middle. Renames and new names
        are kept."""
        for end in range(len(self.log) + 1):
            for written_share in (1.0, 0.0, 0.5):
                yield self._state_after(self.log[:end], written_share)

    def _state_after(self, log: list[Call], written_share: float) -> dict[str, bytes]:
        contents: dict[str, bytearray] = {}  # by the file's current path
        synced: dict[str, int] = {}  # how many bytes of it are on the disk for sure
        for method, path, argument in log:
            if method == "open_new":
                contents[path] = bytearray()
                synced[path] = 0
            elif method == "write":
                assert isinstance(argument, bytes)
                contents[path] += argument
            elif method == "fsync":
                synced[path] = len(contents[path])
            elif method == "truncate":
                assert isinstance(argument, int)
                del contents[path][argument:]
                synced[path] = min(synced[path], argument)
            elif method == "rename":
                assert isinstance(argument, str)
                contents[argument] = contents.pop(path)
                synced[argument] = synced.pop(path)
            elif method == "remove":
                contents.pop(path, None)
        return {
            path: bytes(data[: synced[path] + int(written_share * (len(data) - synced[path]))])
            for path, data in contents.items()
        }
