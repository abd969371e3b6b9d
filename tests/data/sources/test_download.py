"""The files of published data sets: from a user's folder, installed, cached, downloaded, or from a Debian
package.
"""

import gc
import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.file_server import FileServer, serve

from convatlas.data.sources import download
from convatlas.data.sources.download import DebianTree, DownloadSpec
from convatlas.errors import UserError
from convatlas.storage.cache import cache_dir

CONTENTS = {"images.gz": b"some images", "labels.gz": b"their labels"}
OWN_FILES = (".lock", *(f".{name}.part" for name in CONTENTS))  # of a download itself
PREFIX = "./usr/share/datasets/letters"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty cache; no test reaches the network or the machine's package manager."""
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as server:
        server.files |= {f"/{name}": data for name, data in CONTENTS.items()}
        yield server


@pytest.fixture
def letters(server: FileServer) -> DownloadSpec:
    return DownloadSpec("letters", checksums(CONTENTS), f"{server.url}/")


def checksums(contents: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.md5(data, usedforsecurity=False).hexdigest() for name, data in contents.items()}


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


def files_below(folder: Path) -> dict[str, bytes]:
    """The content by name, without the lock and the parts of downloads."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if not file.is_dir() and file.name not in OWN_FILES
    }


# ---- downloads


def test_files_are_downloaded_into_the_cache_once(
    server: FileServer, letters: DownloadSpec, cache: Path
) -> None:
    folder = letters.locate()
    assert folder == cache / "data" / "letters"
    assert files_below(folder) == CONTENTS
    assert letters.locate() == folder
    assert letters.path("labels.gz") == folder / "labels.gz"
    assert server.requests == ["GET /images.gz", "GET /labels.gz"]


def test_a_file_with_another_checksum_is_refused_by_name(
    server: FileServer, letters: DownloadSpec, cache: Path
) -> None:
    server.files["/labels.gz"] = b"other labels"
    digest = hashlib.md5(b"other labels", usedforsecurity=False).hexdigest()
    with pytest.raises(UserError) as error:
        letters.locate()
    assert str(error.value) == (
        f"letters is not on this machine: {letters.url}labels.gz has MD5 {digest}, expected "
        f"{letters.files['labels.gz']}: nothing was kept; try again later; otherwise put images.gz, "
        "labels.gz into a folder and name it in CONVATLAS_DATA"
    )
    assert files_below(cache) == {"data/letters/images.gz": CONTENTS["images.gz"]}


def test_after_a_refused_file_only_what_is_missing_is_downloaded(
    server: FileServer, letters: DownloadSpec
) -> None:
    server.files["/labels.gz"] = b"other labels"
    with pytest.raises(UserError):
        letters.locate()
    server.files["/labels.gz"] = CONTENTS["labels.gz"]
    assert files_below(letters.locate()) == CONTENTS
    assert server.requests == ["GET /images.gz", "GET /labels.gz", "GET /labels.gz"]


def test_a_download_that_was_cut_off_continues_there(
    server: FileServer, letters: DownloadSpec, cache: Path
) -> None:
    server.cut_after = 4
    with pytest.raises(UserError, match=r"4 bytes have arrived: try again to continue; otherwise put images"):
        letters.locate()
    assert files_below(cache) == {}
    assert files_below(letters.locate()) == CONTENTS
    assert server.requests == ["GET /images.gz", "GET /images.gz bytes=4-", "GET /labels.gz"]


def test_two_that_download_at_once_fetch_each_file_once(server: FileServer, letters: DownloadSpec) -> None:
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: letters.locate(), range(2)))
    assert [files_below(folder) for folder in folders] == [CONTENTS, CONTENTS]
    assert sorted(server.requests) == ["GET /images.gz", "GET /labels.gz"]


def test_a_server_that_cannot_be_reached_is_reported(cache: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # a port on which no server listens
        letters = DownloadSpec("letters", checksums(CONTENTS), f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(
            UserError, match=r"letters is not on this machine: .* \(.*refused.*\); otherwise put"
        ):
            letters.locate()
    assert files_below(cache) == {}


@pytest.mark.parametrize("package", [None, "dataset-letters"])
def test_a_failed_download_says_what_else_to_do(server: FileServer, cache: Path, package: str | None) -> None:
    del server.files["/images.gz"]
    with pytest.raises(UserError) as error:
        DownloadSpec("letters", checksums(CONTENTS), f"{server.url}/", package=package).locate()
    assert str(error.value) == (
        f"letters is not on this machine: cannot fetch {server.url}/images.gz (HTTP Error 404: Not Found); "
        "otherwise put images.gz, labels.gz into a folder and name it in CONVATLAS_DATA"
        + (", or install Debian's package dataset-letters" if package else "")
    )
    assert files_below(cache) == {}


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 404 \x1b[31mred\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 busy\r\nContent-Length: 5\r\n\r\nlater",
    ],
    ids=["another protocol", "cut in a chunk", "no length", "many headers", "escape sequence", "a page"],
)
def test_whatever_a_server_replies_the_error_is_one_line(cache: Path, reply: bytes) -> None:
    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        letters = DownloadSpec(
            "letters", checksums(CONTENTS), f"http://127.0.0.1:{listener.getsockname()[1]}/"
        )
        try:
            with pytest.raises(UserError, match="letters is not on this machine") as error:
                letters.locate()
        finally:
            thread.join()
    gc.collect()  # a connection that is left open warns when it is collected
    assert str(error.value).isprintable()
    assert files_below(cache) == {}


# ---- named by the user, installed, cached


@pytest.mark.parametrize("inner", ["letters", "."])
def test_the_folder_that_the_user_names_comes_first(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    installed, _ = write(tmp_path / "installed", CONTENTS), write(cache / "data" / "letters", CONTENTS)
    named = write(tmp_path / "named" / inner, CONTENTS)
    monkeypatch.setenv("CONVATLAS_DATA", str(tmp_path / "named"))
    assert DownloadSpec("letters", checksums(CONTENTS), "", installed=str(installed)).locate() == named


@pytest.mark.parametrize("inner", ["letters", "."])
def test_a_named_folder_that_lacks_some_files_is_reported(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    write(cache / "data" / "letters", CONTENTS)
    contents = {**CONTENTS, "more.gz": b"more"}
    folder = write(tmp_path / "named" / inner, {"images.gz": b""})
    monkeypatch.setenv("CONVATLAS_DATA", str(tmp_path / "named"))
    with pytest.raises(UserError) as error:
        DownloadSpec("letters", checksums(contents), "").locate()
    assert str(error.value) == (
        f"{folder} (from CONVATLAS_DATA) lacks labels.gz, more.gz: put it there, or unset CONVATLAS_DATA"
    )


@pytest.mark.parametrize("named", ["", "empty", "nowhere"])
def test_a_named_folder_without_any_of_the_files_is_passed_over(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    (tmp_path / "empty").mkdir()
    cached = write(cache / "data" / "letters", CONTENTS)
    monkeypatch.setenv("CONVATLAS_DATA", str(tmp_path / named) if named else "")
    assert DownloadSpec("letters", checksums(CONTENTS), "").locate() == cached


def test_complete_installed_files_come_before_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = write(cache / "data" / "letters", CONTENTS)
    letters = DownloadSpec("letters", checksums(CONTENTS), "", installed=str(tmp_path / "installed"))
    assert letters.locate() == cached
    installed = write(tmp_path / "installed", {"images.gz": b""})
    assert letters.locate() == cached
    write(installed, CONTENTS)
    assert letters.locate() == installed


def test_unzipped_and_unpacked_forms_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["images.gz", "labels.gz", "letters.tar.gz", "cifar-10-binary.tar.gz"]
    letters = DownloadSpec("letters", dict.fromkeys(names, ""), "")
    folder = write(tmp_path / "letters", {"images": b"", "labels.gz": b"", "labels": b""})
    monkeypatch.setenv("CONVATLAS_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"lacks letters\.tar\.gz, cifar-10-binary\.tar\.gz:"):
        letters.locate()
    (folder / "letters").mkdir()
    (folder / "cifar-10-batches-bin").mkdir()
    forms = [folder / name for name in ("images", "labels.gz", "letters", "cifar-10-batches-bin")]
    assert [letters.path(name) for name in names] == forms


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"CONVATLAS_CACHE": "/somewhere/mine", "XDG_CACHE_HOME": "/xdg"}, "/somewhere/mine"),
        ({"CONVATLAS_CACHE": "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/convatlas"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/convatlas"),
        ({"XDG_CACHE_HOME": ""}, "/home/me/.cache/convatlas"),
        ({}, "/home/me/.cache/convatlas"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name in ("CONVATLAS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(folder)


# ---- Debian packages


class PackageManager:
    """Replaces apt-get by a script that copies the file `archive`, and dpkg-deb by one that prints it.

    The arguments of `install` are lines of shell that run before and after.
    """

    def __init__(self, folder: Path):
        self.folder, self.archive, self.log = folder, folder / "archive", folder / "log"
        self.folder.mkdir()
        self.install()

    def install(self, apt: str = "", dpkg: str = "", after_dpkg: str = "") -> None:
        bring = f'case "$*" in *download*) cp "{self.archive}" some.deb;; esac'
        for name, lines in (("apt-get", f"{apt}\n{bring}"), ("dpkg-deb", f'{dpkg}\ncat "$2"\n{after_dpkg}')):
            script = f'#!/bin/sh\nPATH=/usr/bin:/bin\nset -e\necho "{name} $*" >> "{self.log}"\n{lines}\n'
            (self.folder / name).write_text(script)
            (self.folder / name).chmod(0o755)

    def pack(self, *members: tuple[str, bytes | tarfile.TarInfo]) -> None:
        """Write an archive of regular files, and of other members by their headers."""
        with tarfile.open(self.archive, "w") as tar:
            for name, content in members:
                info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo()
                data = b"" if isinstance(content, tarfile.TarInfo) else content
                info.name, info.size = name, len(data)
                tar.addfile(info, io.BytesIO(data))

    def pack_attributes(self, attributes: dict[str, str]) -> None:
        """Write an archive of one file with pax attributes."""
        with tarfile.open(self.archive, "w", format=tarfile.PAX_FORMAT) as tar:
            info = tarfile.TarInfo(f"{PREFIX}/crow.png")
            info.pax_headers = attributes
            tar.addfile(info)

    def pack_files(self, contents: dict[str, bytes]) -> None:
        self.pack(*((f"{PREFIX}/{name}", data) for name, data in contents.items()))


@pytest.fixture
def packages(tmp_path: Path) -> PackageManager:
    return PackageManager(tmp_path / "programs")


@pytest.fixture
def packaged(server: FileServer) -> DownloadSpec:
    return DownloadSpec(
        "letters", checksums(CONTENTS), f"{server.url}/", package="dataset-letters", installed="/nowhere"
    )


STAMPS = DebianTree("stamps", "some-stamps", PREFIX.removeprefix("."), (".png", ".jpg"))
NO_STAMPS = "stamps is not on this machine and could not be fetched: install Debian's package some-stamps"


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def test_a_packages_files_are_taken_instead_of_downloads(
    packages: PackageManager, packaged: DownloadSpec, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    packages.pack_files({"readme": b"no", **CONTENTS, "images.gz.asc": b"no"})
    folder = packaged.locate()
    assert files_below(folder) == CONTENTS
    assert server.requests == []
    assert f"fetching Debian's package dataset-letters into {cache_dir()}" in capsys.readouterr().err
    packages.archive.unlink()
    assert packaged.locate() == folder


def test_the_state_of_the_package_manager_is_not_changed(
    packages: PackageManager, packaged: DownloadSpec
) -> None:
    packages.pack_files(CONTENTS)
    packaged.locate()
    update, download, unpack = packages.log.read_text().splitlines()
    assert update.endswith(" update")
    assert download.endswith(" download dataset-letters")
    assert unpack.startswith("dpkg-deb --fsys-tarfile ")
    for line in (update, download):
        options = dict(word.removeprefix("-o").split("=", 1) for word in line.split() if "=" in word)
        for option in ("Dir::State", "Dir::Cache"):
            assert not Path(options[option]).parent.exists()  # a temporary folder, which is deleted
            assert Path(options[option]).parent != Path("/var/lib")


def test_what_a_package_lacks_is_downloaded(
    packages: PackageManager, packaged: DownloadSpec, server: FileServer
) -> None:
    packages.pack_files({"images.gz": CONTENTS["images.gz"]})
    assert files_below(packaged.locate()) == CONTENTS
    assert server.requests == ["GET /labels.gz"]


SPOILED: dict[str, Callable[[PackageManager], object]] = {
    "no apt-get": lambda packages: (packages.folder / "apt-get").unlink(),
    "no dpkg-deb": lambda packages: (packages.folder / "dpkg-deb").unlink(),
    "no such package": lambda packages: packages.install(apt="exit 100"),
    "nothing brought": lambda packages: packages.install(apt='case "$*" in *download*) exit 0;; esac'),
    "cannot be unpacked": lambda packages: packages.install(dpkg="exit 2"),
    "no archive": lambda packages: packages.archive.write_bytes(b"no archive" * 100),
    "empty": lambda packages: packages.archive.write_bytes(b""),
    "cut": lambda packages: packages.archive.write_bytes(packages.archive.read_bytes()[:520]),
    "no files": lambda packages: packages.pack(),
    "senseless sparse map": lambda packages: packages.pack_attributes({"GNU.sparse.map": "x"}),
    "endless attributes": lambda packages: packages.pack_attributes({"comment": "1" * (1 << 18)}),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_without_a_readable_package_files_are_downloaded(
    packages: PackageManager, packaged: DownloadSpec, server: FileServer, kind: str
) -> None:
    packages.pack_files(CONTENTS)
    SPOILED[kind](packages)
    assert files_below(packaged.locate()) == CONTENTS
    assert server.requests == ["GET /images.gz", "GET /labels.gz"]


@pytest.mark.parametrize("damage", ["exit 2", "cut"])
def test_files_of_a_package_that_ends_badly_are_not_kept(
    packages: PackageManager, packaged: DownloadSpec, server: FileServer, damage: str
) -> None:
    packages.pack_files({"images.gz": b"damaged", "labels.gz": bytes(20_000)})
    if damage == "cut":
        packages.archive.write_bytes(packages.archive.read_bytes()[:10_000])
    else:
        packages.install(after_dpkg=damage)
    folder = packaged.locate()
    assert files_below(folder) == CONTENTS
    assert [path.name for path in folder.parent.iterdir()] == ["letters"]
    assert server.requests == ["GET /images.gz", "GET /labels.gz"]


@pytest.mark.parametrize("kind", SPOILED)
def test_a_folder_that_cannot_be_fetched_is_reported(
    packages: PackageManager, cache: Path, kind: str
) -> None:
    packages.pack_files({"crow.png": b"crow"})
    SPOILED[kind](packages)
    with pytest.raises(UserError) as error:
        STAMPS.locate()
    assert str(error.value) == (
        f"{NO_STAMPS}, or put what it installs in {STAMPS.installed} into the folder {cache}/data/stamps"
    )
    assert list((cache / "data").iterdir()) == []


HOSTILE: dict[str, list[tuple[str, bytes | tarfile.TarInfo]]] = {
    "a path that leads out": [
        (f"{PREFIX}/../../../../evil.png", b"evil"),
        (f"{PREFIX}/a/../../evil.png", b"evil"),
    ],
    "an absolute path": [
        ("/evil.png", b"evil"),
        (f"{PREFIX[1:]}/evil.png", b"evil"),
        ("//evil.png", b"evil"),
    ],
    "symbolic links": [
        (f"{PREFIX}/out", special(tarfile.SYMTYPE, "../../..")),
        (f"{PREFIX}/link.png", special(tarfile.SYMTYPE, "/etc/passwd")),
    ],
    "hard links": [
        (f"{PREFIX}/passwd.png", special(tarfile.LNKTYPE, "/etc/passwd")),
        (f"{PREFIX}/copy.png", special(tarfile.LNKTYPE, f"{PREFIX}/crow.png")),
    ],
    "devices and pipes": [
        (f"{PREFIX}/block.png", special(tarfile.BLKTYPE)),
        (f"{PREFIX}/character.png", special(tarfile.CHRTYPE)),
        (f"{PREFIX}/pipe.png", special(tarfile.FIFOTYPE)),
    ],
    "a folder with a file's name": [(f"{PREFIX}/folder.png", special(tarfile.DIRTYPE))],
    "the folder itself": [(PREFIX, b"evil"), (f"{PREFIX}.png", b"evil"), (f"{PREFIX}s/evil.png", b"evil")],
    "a member of a kind that does not exist": [(f"{PREFIX}/strange.png", special(b"Z"))],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_only_plain_files_are_taken_from_a_hostile_package(
    packages: PackageManager, cache: Path, kind: str
) -> None:
    packages.pack((f"{PREFIX}/crow.png", b"crow"), *HOSTILE[kind], (f"{PREFIX}/deep/owl.jpg", b"owl"))
    folder = STAMPS.locate()
    assert files_below(folder) == {"crow.png": b"crow", "deep/owl.jpg": b"owl"}
    assert sorted(path.name for path in folder.iterdir()) == ["crow.png", "deep"]
    assert sorted(path.name for path in (cache / "data").iterdir()) == ["stamps"]
    assert not list(cache.parent.rglob("*evil*"))


def test_a_file_below_a_packages_link_stays_in_the_folder(packages: PackageManager, cache: Path) -> None:
    packages.pack((f"{PREFIX}/out", special(tarfile.SYMTYPE, "../../..")), (f"{PREFIX}/out/owl.png", b"owl"))
    assert files_below(STAMPS.locate()) == {"out/owl.png": b"owl"}
    assert files_below(cache) == {"data/stamps/out/owl.png": b"owl"}


def test_files_of_a_hostile_package_stay_in_the_cache_folder(
    packages: PackageManager, packaged: DownloadSpec, server: FileServer, cache: Path
) -> None:
    packages.pack(
        ("../../../images.gz", CONTENTS["images.gz"]),
        (f"{PREFIX}/deep/labels.gz", special(tarfile.SYMTYPE, "/etc/passwd")),
        (f"{PREFIX}/labels.gz", special(tarfile.LNKTYPE, "../../../images.gz")),
        (f"{PREFIX}/labels.gz", special(tarfile.FIFOTYPE)),
        (f"{PREFIX}/..", special(tarfile.DIRTYPE)),
    )
    folder = packaged.locate()
    assert files_below(cache) == {f"data/letters/{name}": data for name, data in CONTENTS.items()}
    assert not any(file.is_symlink() for file in folder.iterdir())
    assert server.requests == ["GET /labels.gz"]


@pytest.mark.parametrize(("limit", "value"), [("MAX_FILES", 3), ("MAX_BYTES", 3_000)])
def test_a_package_above_the_limits_is_refused(
    packages: PackageManager, cache: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(download, limit, value)
    stamps = {f"{i}.png": bytes(1_000) for i in range(3)}
    packages.pack_files({**stamps, "3.png": b"x"})
    with pytest.raises(UserError) as error:
        STAMPS.locate()
    assert NO_STAMPS in str(error.value)
    assert list((cache / "data").iterdir()) == []
    packages.pack_files({**stamps, "notes.txt": bytes(5_000), "more notes.txt": b""})  # which are not counted
    assert files_below(STAMPS.locate()) == stamps


def test_a_package_that_claims_a_huge_file_is_not_read(packages: PackageManager, cache: Path) -> None:
    info = tarfile.TarInfo(f"{PREFIX}/crow.png")
    info.size = 1 << 40
    packages.archive.write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(UserError) as error:
        STAMPS.locate()
    assert NO_STAMPS in str(error.value)
    assert list((cache / "data").iterdir()) == []


@pytest.mark.parametrize(
    "names", [("crow.png", "crow.png/owl.png"), ("crow.png/owl.png", "crow.png"), (f"{300 * 'n'}.png",)]
)
def test_a_package_whose_files_cannot_be_written_leaves_nothing(
    packages: PackageManager, cache: Path, names: tuple[str, ...]
) -> None:
    packages.pack_files(dict.fromkeys(names, b"a bird"))
    with pytest.raises(UserError) as error:
        STAMPS.locate()
    assert NO_STAMPS in str(error.value)
    assert list((cache / "data").iterdir()) == []


def test_a_package_that_is_damaged_at_its_end_leaves_no_folder(packages: PackageManager, cache: Path) -> None:
    packages.pack_files({"crow.png": b"crow"})
    packages.install(after_dpkg="exit 2")
    with pytest.raises(UserError) as error:
        STAMPS.locate()
    assert NO_STAMPS in str(error.value)
    assert list((cache / "data").iterdir()) == []


def test_a_folder_comes_from_the_user_then_the_system_then_the_cache(
    tmp_path: Path, cache: Path, packages: PackageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = DebianTree("stamps", "some-stamps", str(tmp_path / "installed"), (".png",))
    monkeypatch.setenv("CONVATLAS_DATA", str(tmp_path / "named"))
    for folder in (cache / "data" / "stamps", tmp_path / "installed", tmp_path / "named" / "stamps"):
        folder.mkdir(parents=True)
        assert stamps.locate() == folder
    assert not packages.log.exists()


def test_the_first_of_two_processes_provides_the_folder(packages: PackageManager, cache: Path) -> None:
    packages.pack_files({"crow.png": b"crow"})
    cached = cache / "data" / "stamps"
    packages.install(dpkg=f'mkdir "{cached}"; echo first > "{cached}/crow.png"')  # while this process unpacks
    assert STAMPS.locate() == cached
    assert files_below(cached) == {"crow.png": b"first\n"}
    assert [path.name for path in (cache / "data").iterdir()] == ["stamps"]


def test_a_file_where_the_cached_folder_belongs_is_left_alone(packages: PackageManager, cache: Path) -> None:
    packages.pack_files({"crow.png": b"crow"})
    write(cache / "data", {"stamps": b"mine"})
    with pytest.raises(NotADirectoryError):
        STAMPS.locate()
    assert files_below(cache / "data") == {"stamps": b"mine"}
