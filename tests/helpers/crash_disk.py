"""A disk that remembers what was done to it, so that every state in which a power cut could have left it can be tried."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from convatlas.storage.atomic import FileOps


@dataclass
class RecordingDisk(FileOps):
    """Does everything for real and writes it down."""

    log: list[tuple[str, str, bytes | str | int]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)

    def open_new(self, path: Path) -> int:
        file = super().open_new(path)
        self.names[file] = str(path)
        self.log.append(("open_new", str(path), ""))
        return file

    def open_append(self, path: Path) -> int:
        existed = path.exists()
        file = super().open_append(path)
        self.names[file] = str(path)
        if not existed:
            self.log.append(("open_new", str(path), ""))
        return file

    def write(self, file: int, data: bytes) -> None:
        super().write(file, data)
        self.log.append(("write", self.names[file], bytes(data)))

    def fsync(self, file: int) -> None:
        super().fsync(file)
        self.log.append(("fsync", self.names[file], ""))

    def truncate(self, file: int, length: int) -> None:
        super().truncate(file, length)
        self.log.append(("truncate", self.names[file], length))

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
        """Files by path, after every prefix of what was done: with all of it on the disk; with nothing kept that was not synced;
        with what was not synced torn in the middle. Renames and new names survive only what came before a synced folder, or all."""
        for end in range(len(self.log) + 1):
            for fate in ("written", "lost", "torn"):
                yield self._after(self.log[:end], fate)

    def _after(self, log: list[tuple[str, str, bytes | str | int]], fate: str) -> dict[str, bytes]:
        content: dict[str, bytearray] = {}  # by name at present
        synced: dict[str, int] = {}  # how much of it is surely there
        for action, path, argument in log:
            if action == "open_new":
                content[path], synced[path] = bytearray(), 0
            elif action == "write":
                assert isinstance(argument, bytes)
                content[path] += argument
            elif action == "fsync":
                synced[path] = len(content[path])
            elif action == "truncate":
                assert isinstance(argument, int)
                del content[path][argument:]
                synced[path] = min(synced[path], argument)
            elif action == "rename":
                assert isinstance(argument, str)
                content[argument], synced[argument] = content.pop(path), synced.pop(path)
            elif action == "remove":
                content.pop(path, None)
        share = {"written": 1.0, "lost": 0.0, "torn": 0.5}[fate]  # of what was not synced
        return {path: bytes(data[: synced[path] + int(share * (len(data) - synced[path]))]) for path, data in content.items()}
