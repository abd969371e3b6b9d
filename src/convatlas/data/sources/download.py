"""KEEP"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from convatlas.errors import UserError
from convatlas.storage.atomic import atomic_write
from convatlas.storage.cache import cache_dir

MAX_FILES, MAX_BYTES = 20_000, 1 << 30  # that a package may bring


@dataclass(frozen=True)
class DownloadSpec:
    """A data set as published: its files with the MD5 that its authors give, their address, and Debian's package of it."""

    name: str
    files: dict[str, str]
    url: str
    package: str | None = None
    installed: str | None = None  # where that package puts the files

    def locate(self) -> Path:
        """A folder that holds all files (or their unzipped or unpacked forms). Raises UserError saying where it looked."""
        named = os.environ.get("CONVATLAS_DATA")
        if named:
            for folder in (Path(named) / self.name, Path(named)):
                present = [file for file in self.files if _find(folder, file)]
                if len(present) == len(self.files):
                    return folder
                if present:
                    lacking = ", ".join(file for file in self.files if file not in present)
                    raise UserError(f"{folder} (from CONVATLAS_DATA) lacks {lacking}: put it there, or unset CONVATLAS_DATA")
        cached = cache_dir() / "data" / self.name
        for folder in (*([Path(self.installed)] if self.installed else []), cached):
            if all(_find(folder, file) for file in self.files):
                return folder
        cached.mkdir(parents=True, exist_ok=True)
        if not (
            self.package and _unpack_debian(self.package, self._wanted, cached) and all((cached / file).exists() for file in self.files)
        ):
            self._download(cached)
        return cached

    def path(self, file: str) -> Path:
        """A file of the set, in the form in which it is there."""
        folder = self.locate()
        return _find(folder, file) or folder / file

    def _wanted(self, member: str) -> str | None:
        name = PurePosixPath(member).name
        return name if name in self.files else None

    def _download(self, folder: Path) -> None:
        import torch

        for file, md5 in self.files.items():
            if (folder / file).exists():
                continue
            part = folder / f"{file}.part"
            try:
                torch.hub.download_url_to_file(self.url + file, str(part))
            except (urllib.error.URLError, OSError) as error:
                part.unlink(missing_ok=True)
                apt = f", install Debian's package {self.package}" if self.package else ""
                raise UserError(
                    f"{self.name} is not on this machine and could not be downloaded ({error}): put {', '.join(self.files)} "
                    f"into a folder and name it in CONVATLAS_DATA{apt}"
                ) from None
            found = hashlib.md5(part.read_bytes(), usedforsecurity=False).hexdigest()
            if found != md5:
                part.unlink()
                raise UserError(f"{self.url}{file} has MD5 {found}, expected {md5}: nothing was kept; try again later")
            part.rename(folder / file)


@dataclass(frozen=True)
class DebianTree:
    """A folder of files that a Debian package installs, with the folders in it; of its files those with these endings."""

    name: str
    package: str
    installed: str  # where the package puts the folder
    endings: tuple[str, ...]

    def locate(self) -> Path:
        """The folder: under CONVATLAS_DATA, installed, in the cache, or brought there whole. Raises UserError."""
        named = os.environ.get("CONVATLAS_DATA")
        cached = cache_dir() / "data" / self.name
        for folder in (*([Path(named) / self.name] if named else []), Path(self.installed), cached):
            if folder.is_dir():
                return folder
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent, prefix=f".{self.name}.") as scratch:
            whole = Path(scratch, self.name)
            if not (_unpack_debian(self.package, self._wanted, whole) and whole.is_dir()):
                raise UserError(
                    f"{self.name} is not on this machine and could not be fetched: install Debian's package {self.package}, or put "
                    f"what it installs in {self.installed} into the folder {cached}"
                )
            try:
                whole.rename(cached)
            except OSError:
                if not cached.is_dir():  # else another process was first
                    raise
        return cached

    def _wanted(self, member: str) -> str | None:
        below = path_below(member, self.installed)
        return below if below and below.endswith(self.endings) else None


def path_below(member: str, root: str) -> str | None:
    """Where an archive's member is below `root`; None for what is elsewhere, or would lead out of it."""
    parts, start = PurePosixPath(member).parts, PurePosixPath(root.lstrip("/")).parts
    if "\0" in member or ".." in parts or parts[: len(start)] != start or len(parts) == len(start):
        return None
    return str(PurePosixPath(*parts[len(start) :]))


def _find(folder: Path, file: str) -> Path | None:
    """The file itself, or the same without .gz, or for an archive the folder that it unpacks to."""
    forms = (file, file.removesuffix(".gz"), {"cifar-10-binary.tar.gz": "cifar-10-batches-bin"}.get(file, file.removesuffix(".tar.gz")))
    return next((folder / form for form in forms if (folder / form).exists()), None)


def _unpack_debian(package: str, wanted: Callable[[str], str | None], folder: Path) -> bool:
    """Fetch a package with apt and stream files out of it: those that `wanted` gives a place below `folder`. Nothing is installed, and
    apt's own state is left alone. Whether the package was read to its end."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return False
    print(f"fetching Debian's package {package} into {cache_dir()}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        state = [f"-oDir::State={scratch}/state", f"-oDir::Cache={scratch}/cache", "-oDir::State::status=/var/lib/dpkg/status"]
        state += ["-oAPT::Sandbox::User=", "-oAcquire::Languages=none"]
        for part in ("state/lists/partial", "cache/archives/partial"):
            Path(scratch, part).mkdir(parents=True)
        try:
            for command in (["update"], ["download", package]):
                subprocess.run(
                    ["apt-get", "-qq", *state, *command],
                    cwd=scratch,
                    check=True,
                    timeout=300,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                )
            archive = next(Path(scratch).glob("*.deb"))
            opened = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
            with opened as process, tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                whole = _stream(tar, wanted, folder)
                if whole and process.stdout:
                    process.stdout.read()  # what follows the last member, for its writer to end well
            return whole and process.returncode == 0
        except (subprocess.SubprocessError, OSError, StopIteration, tarfile.TarError):
            return False


def _stream(tar: tarfile.TarFile, wanted: Callable[[str], str | None], folder: Path) -> bool:
    """Plain files alone, links and devices never; False for an archive that would bring too many, or too much."""
    files, size = 0, 0
    for member in tar:
        name = wanted(member.name) if member.isreg() else None
        if name is None:
            continue
        files, size = files + 1, size + member.size
        if files > MAX_FILES or size > MAX_BYTES:
            return False
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, tar.extractfile(member).read())  # type: ignore[union-attr]
    return True
