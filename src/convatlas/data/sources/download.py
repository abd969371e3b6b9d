"""The files of published data sets: found on this machine, downloaded, or taken from a Debian package."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from convatlas.data.sources.safe_tarfile import TAR_ERRORS, LimitedTarInfo
from convatlas.errors import UserError
from convatlas.runtime.progress import track
from convatlas.storage.atomic import atomic_write, scratch_folder
from convatlas.storage.cache import cache_dir
from convatlas.storage.download import download_file

MAX_FILES = 20_000  # of a package
MAX_BYTES = 1 << 30  # of all files of a package together


@dataclass(frozen=True)
class DownloadSpec:
    """A published data set: its files with the MD5 that its authors give, and where to get them."""

    name: str
    files: dict[str, str]  # MD5 by name
    url: str  # of the folder of the files
    package: str | None = None
    installed: str | None = None  # the folder in which the package installs the files

    def locate(self) -> Path:
        """A folder with all files, or with their unzipped or unpacked forms.

        Looks in CONVATLAS_DATA, in what is installed and in the cache; else the files are fetched into the
        cache. Raises UserError for files that are missing and cannot be fetched.
        """
        data_folder = os.environ.get("CONVATLAS_DATA")
        if data_folder:
            for folder in (Path(data_folder) / self.name, Path(data_folder)):
                missing = [file for file in self.files if not _existing_form(folder, file)]
                if not missing:
                    return folder
                if len(missing) < len(self.files):
                    raise UserError(
                        f"{folder} (from CONVATLAS_DATA) lacks {', '.join(missing)}: put it there, or unset "
                        "CONVATLAS_DATA"
                    )
        cached = cache_dir() / "data" / self.name
        for folder in (*([Path(self.installed)] if self.installed else []), cached):
            if all(_existing_form(folder, file) for file in self.files):
                return folder
        cached.mkdir(parents=True, exist_ok=True)
        if self.package:
            self._unpack_package(self.package, cached)
        for file in self.files:
            self._download(file, cached)
        return cached

    def path(self, file: str) -> Path:
        """The path of a file, or of its unzipped or unpacked form. Raises UserError like `locate`."""
        folder = self.locate()
        return _existing_form(folder, file) or folder / file

    def _unpack_package(self, package: str, folder: Path) -> None:
        """Move the files of a Debian package into `folder`, if the package could be read to its end."""
        with scratch_folder(folder) as scratch:
            if _unpack_debian(package, self._select, scratch):
                for file in scratch.iterdir():
                    file.replace(folder / file.name)

    def _select(self, member: str) -> str | None:
        name = PurePosixPath(member).name
        return name if name in self.files else None

    def _download(self, file: str, folder: Path) -> None:
        """Download a file and check its MD5; a download that has stopped continues."""
        try:
            download_file(self.url + file, folder / file, lambda part: self._problem(file, part), track)
        except UserError as error:
            install = f", or install Debian's package {self.package}" if self.package else ""
            raise UserError(
                f"{self.name} is not on this machine: {error}; otherwise put {', '.join(self.files)} into a "
                f"folder and name it in CONVATLAS_DATA{install}"
            ) from None

    def _problem(self, file: str, content: Path) -> str:
        """What is wrong with a complete download; "" if nothing is."""
        md5 = hashlib.md5(content.read_bytes(), usedforsecurity=False).hexdigest()
        return "" if md5 == self.files[file] else f"has MD5 {md5}, expected {self.files[file]}"


@dataclass(frozen=True)
class DebianTree:
    """A folder that a Debian package installs, with its subfolders; only the files with these extensions."""

    name: str
    package: str
    installed: str  # the folder in which the package installs the files
    extensions: tuple[str, ...]

    def locate(self) -> Path:
        """The folder: in CONVATLAS_DATA, installed, or in the cache, where the package is unpacked if needed.

        Raises UserError for a package that cannot be fetched.
        """
        data_folder = os.environ.get("CONVATLAS_DATA")
        cached = cache_dir() / "data" / self.name
        for folder in (
            *([Path(data_folder) / self.name] if data_folder else []),
            Path(self.installed),
            cached,
        ):
            if folder.is_dir():
                return folder
        cached.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(cached) as scratch:
            unpacked = scratch / self.name
            if not (_unpack_debian(self.package, self._select, unpacked) and unpacked.is_dir()):
                raise UserError(
                    f"{self.name} is not on this machine and could not be fetched: install Debian's package "
                    f"{self.package}, or put what it installs in {self.installed} into the folder {cached}"
                )
            try:
                unpacked.rename(cached)
            except OSError:
                if not cached.is_dir():  # else another process was first
                    raise
        return cached

    def _select(self, member: str) -> str | None:
        relative = path_below(member, self.installed)
        return relative if relative and relative.endswith(self.extensions) else None


def path_below(member: str, root: str) -> str | None:
    """The path of a member relative to `root`; None if it is not below `root`, or would lead out of it."""
    path = PurePosixPath(member)
    root_path = PurePosixPath(root.lstrip("/"))
    if "\0" in member or ".." in path.parts or path == root_path or not path.is_relative_to(root_path):
        return None
    return str(path.relative_to(root_path))


def _existing_form(folder: Path, file: str) -> Path | None:
    """The path of a file, of the same without .gz, or of the folder to which an archive unpacks."""
    unpacked = {"cifar-10-binary.tar.gz": "cifar-10-batches-bin"}.get(file, file.removesuffix(".tar.gz"))
    forms = (file, file.removesuffix(".gz"), unpacked)
    return next((folder / form for form in forms if (folder / form).exists()), None)


def _unpack_debian(package: str, select: Callable[[str], str | None], folder: Path) -> bool:
    """Fetch a package with apt and write files of it below `folder`. Returns whether it was read to its end.

    `select` gives the relative path of a member, or None to skip it. Nothing is installed, and apt's own
    state is not touched.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return False
    print(f"fetching Debian's package {package} into {cache_dir()}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        options = [
            f"-oDir::State={scratch}/state",
            f"-oDir::Cache={scratch}/cache",
            "-oDir::State::status=/var/lib/dpkg/status",
            "-oAPT::Sandbox::User=",
            "-oAcquire::Languages=none",
        ]
        for name in ("state/lists/partial", "cache/archives/partial"):
            Path(scratch, name).mkdir(parents=True)
        try:
            for command in (["update"], ["download", package]):
                subprocess.run(
                    ["apt-get", "-qq", *options, *command],
                    cwd=scratch,
                    check=True,
                    timeout=300,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                )
            archive = next(Path(scratch).glob("*.deb"))
            return _extract(archive, select, folder)
        except (subprocess.SubprocessError, StopIteration, *TAR_ERRORS):
            return False


def _extract(archive: Path, select: Callable[[str], str | None], folder: Path) -> bool:
    """Write the selected files of a .deb below `folder`. Returns whether it was read to its end."""
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|", tarinfo=LimitedTarInfo) as tar,
    ):
        is_complete = _write_files(tar, select, folder)
        if is_complete and process.stdout:
            process.stdout.read()  # up to the end of the pipe, so that dpkg-deb exits without an error
    return is_complete and process.returncode == 0


def _write_files(tar: tarfile.TarFile, select: Callable[[str], str | None], folder: Path) -> bool:
    """Write plain files, never links or devices.

    Returns False for an archive with too many files or bytes.
    """
    num_files = 0
    num_bytes = 0
    for member in tar:
        name = select(member.name) if member.isreg() else None
        if name is None:
            continue
        num_files += 1
        num_bytes += member.size
        if num_files > MAX_FILES or num_bytes > MAX_BYTES:
            return False
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = tar.extractfile(member)
        assert stream is not None  # of a plain file
        atomic_write(path, stream.read())
    return True
