"""CIFAR-10 and CIFAR-100 from their published binary archives (never from the pickled ones), streamed, not extracted.

Format: records of one or two label bytes (CIFAR-100: coarse, then fine) and 3 x 32 x 32 bytes.
"""

import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import UserError


def read_cifar(path: Path, members: tuple[str, ...], label_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(images (n, 3, 32, 32), labels (n,)) of the members of an archive, or of the files in a folder, in their order."""
    found: dict[str, bytes] = {}
    try:
        if path.is_dir():
            found = {name: (path / name).read_bytes() for name in members if (path / name).is_file()}
        else:
            with tarfile.open(path, "r|gz") as archive:
                for member in archive:
                    name = Path(member.name).name
                    if member.isfile() and name in members and member.size <= 200_000_000:
                        found[name] = archive.extractfile(member).read()  # type: ignore[union-attr]
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): get the file again") from None
    record = label_bytes + 3 * 32 * 32
    for name in members:
        if name not in found:
            raise UserError(f"{path} lacks {name}: expected CIFAR's binary version, not its Python version")
        if not found[name] or len(found[name]) % record:
            raise UserError(f"{path}: {name} has {len(found[name]):,} bytes, not a whole number of {record}-byte records: get it again")
    data = np.frombuffer(b"".join(found[name] for name in members), np.uint8).reshape(-1, record)
    return np.ascontiguousarray(data[:, label_bytes:]).reshape(-1, 3, 32, 32), data[:, label_bytes - 1].astype(np.int64)
