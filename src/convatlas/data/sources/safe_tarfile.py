"""The standard library's tarfile, for archives that may be damaged or hostile."""

import tarfile
from typing import Self

# Long names and pax attributes are read into memory, and Python before 3.11.10 parses them in quadratic time
# (CVE-2024-6232). A path has at most 4,096 bytes.
MAX_HEADER_BYTES = 64 << 10

# the exceptions of tarfile for damaged bytes; most of them are not documented
TAR_ERRORS = (
    tarfile.TarError,
    OSError,
    EOFError,
    ArithmeticError,
    LookupError,
    ValueError,
    MemoryError,
    RecursionError,
)

_EXTENSION_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class LimitedTarInfo(tarfile.TarInfo):
    """A header; for `tarfile.open(tarinfo=LimitedTarInfo)`.

    Long names and attributes above MAX_HEADER_BYTES raise tarfile.ReadError before they are read.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENSION_TYPES and not 0 <= header.size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a name or attributes of {header.size:,} bytes")
        return header
