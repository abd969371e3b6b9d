"""Where a published data set's files are: named by the user, installed by the system, in the cache, or brought there."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
from dataclasses import dataclass
from pathlib import Path

from convatlas.errors import UserError
from convatlas.storage.disk import replace


@dataclass(frozen=True)
class Published:
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
        cached = cache_folder() / "data" / self.name
        for folder in (*([Path(self.installed)] if self.installed else []), cached):
            if all(_find(folder, file) for file in self.files):
                return folder
        cached.mkdir(parents=True, exist_ok=True)
        if not (self.package and _unpack_debian(self.package, tuple(self.files), cached)):
            self._download(cached)
        return cached

    def path(self, file: str) -> Path:
        """A file of the set, in the form in which it is there."""
        folder = self.locate()
        return _find(folder, file) or folder / file

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


def cache_folder() -> Path:
    """The user's cache: CONVATLAS_CACHE, or `convatlas` in XDG_CACHE_HOME, or in ~/.cache."""
    own = os.environ.get("CONVATLAS_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convatlas"


def _find(folder: Path, file: str) -> Path | None:
    """The file itself, or the same without .gz, or for an archive the folder that it unpacks to."""
    forms = (file, file.removesuffix(".gz"), {"cifar-10-binary.tar.gz": "cifar-10-batches-bin"}.get(file, file.removesuffix(".tar.gz")))
    return next((folder / form for form in forms if (folder / form).exists()), None)


def _unpack_debian(package: str, wanted: tuple[str, ...], folder: Path) -> bool:
    """Fetch a package with apt and stream the wanted files out of it; nothing is installed, and apt's own state is left alone."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return False
    print(f"fetching Debian's package {package} into {folder}", file=sys.stderr)
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
                for member in tar:
                    name = Path(member.name).name
                    if member.isfile() and name in wanted and member.size < 1 << 30:
                        replace(folder / name, tar.extractfile(member).read())  # type: ignore[union-attr]
        except (subprocess.SubprocessError, OSError, StopIteration, tarfile.TarError):
            return False
    return all((folder / file).exists() for file in wanted)
