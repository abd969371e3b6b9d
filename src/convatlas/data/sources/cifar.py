"""CIFAR-10 and CIFAR-100 from their published binary archives, never from the pickled ones.

Format: records of one label byte (CIFAR-100: two, coarse and fine) and 3 x 32 x 32 bytes of pixels.
"""

import tarfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convatlas.data.sources.safe_tarfile import TAR_ERRORS, LimitedTarInfo
from convatlas.errors import UserError
from convatlas.storage.regular_file import open_regular, read_regular

MAX_MEMBER_BYTES = 200_000_000


def read_cifar(
    path: Path, members: tuple[str, ...], label_bytes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, 3, 32, 32) and labels (n,) of an archive's members, or of a folder's files, in order.

    `label_bytes` is the number of label bytes in a record; the last one is the label. The archive may be
    gzipped or not. Raises UserError for members that are missing or damaged.
    """
    try:
        contents = _read_folder(path, members) if path.is_dir() else _read_archive(path, members)
    except (zlib.error, *TAR_ERRORS) as error:
        raise UserError(f"{path} cannot be read ({error}): get the file again") from None
    record_bytes = label_bytes + 3 * 32 * 32
    for name in members:
        if name not in contents:
            raise UserError(f"{path} lacks {name}: expected CIFAR's binary version, not its Python version")
        size = len(contents[name])
        if not size or size % record_bytes:
            raise UserError(
                f"{path}: {name} has {size:,} bytes, not a whole number of {record_bytes}-byte records: get "
                "it again"
            )
    data = np.frombuffer(b"".join(contents[name] for name in members), np.uint8).reshape(-1, record_bytes)
    images = np.ascontiguousarray(data[:, label_bytes:]).reshape(-1, 3, 32, 32)
    return images, data[:, label_bytes - 1].astype(np.int64)


def _read_folder(folder: Path, members: tuple[str, ...]) -> dict[str, bytes]:
    return {name: read_regular(folder / name) for name in members if (folder / name).is_file()}


def _read_archive(path: Path, members: tuple[str, ...]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    mode: Literal["r|gz", "r|"] = "r|gz" if path.suffix == ".gz" else "r|"
    with (
        open_regular(path) as file,
        tarfile.open(fileobj=file, mode=mode, tarinfo=LimitedTarInfo) as archive,
    ):
        for member in archive:
            name = Path(member.name).name
            if member.isfile() and name in members and member.size <= MAX_MEMBER_BYTES:
                stream = archive.extractfile(member)
                assert stream is not None  # of a plain file
                contents[name] = stream.read()
    return contents
