"""Images in a column of Arrow files, a row for each sample: mapped into memory and read by row, in any order.

Format: arrow.apache.org/docs/format/Columnar.html, "IPC Streaming Format"; for the column,
huggingface.co/docs/datasets, "Image".
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.data.images import decode
from convatlas.data.images.decode import EncodedImage
from convatlas.errors import UserError, printable


@dataclass(frozen=True)
class ArrowImages:
    """Images in a column of Arrow files. Every process opens the files for itself."""

    source: str  # the data set's name
    splits: Sequence[str]
    starts: NDArray[np.int64]  # (splits + 1,): the first row of every split, and the number of rows
    files: Sequence[Path]
    stamps: Sequence[list[int]]  # of the files
    image_column: str
    # Folders of the image files that rows may name instead of holding their bytes. Names are relative to the
    # first.
    roots: Sequence[Path]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def name(self, index: int) -> str:
        number = int(np.searchsorted(self.starts, index, "right")) - 1
        split = f" {self.splits[number]}" if self.splits[number] else ""
        return f"{self.source}{split} #{index - self.starts[number]}"

    def image(self, index: int) -> EncodedImage:
        """The image in a row.

        Raises UnreadableImage; UserError for files that have changed, and for a row that names a file outside
        `roots`, which are no faults of an image.
        """
        return EncodedImage(self.content(index), self.name(index))

    def content(self, index: int) -> bytes:
        """The bytes of the image file in a row; empty if it has none.

        Raises UnreadableImage for a file that does not exist, and UserError like `image`.
        """
        chunks, starts = self._chunks
        chunk = int(np.searchsorted(starts, index, "right")) - 1
        row = chunks[chunk][index - int(starts[chunk])].as_py() or {}
        if row.get("bytes") is None and row.get("path"):
            file = require_inside(self.roots[0] / row["path"], self.roots, self.name(index))
            return decode.open_image(file).data
        return row.get("bytes") or b""

    def column(self, name: str) -> list[Any]:
        """The Arrow arrays of a column, in the order of rows.

        Raises UserError for changed or damaged files.
        """
        import pyarrow

        try:
            if [file_stamp(file) for file in self.files] != self.stamps:
                raise UserError(f"{printable(self.source)} was changed while it is in use: start again")
            tables = [
                pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all() for file in self.files
            ]
            chunks = [chunk for table in tables for chunk in table.column(name).chunks]
            for chunk in chunks:
                chunk.validate(full=True)  # an offset outside the file would end the process
        except (pyarrow.ArrowException, OSError, KeyError) as error:
            raise UserError(
                f"{printable(self.source)} is damaged ({first_line(error)}): fetch or write it again"
            ) from None
        return chunks

    @cached_property
    def _chunks(self) -> tuple[list[Any], NDArray[np.int64]]:
        chunks = self.column(self.image_column)
        return chunks, np.cumsum([0, *map(len, chunks)], dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        # without the mapped arrays, which would be copied
        return {field.name: getattr(self, field.name) for field in fields(self)}


def first_line(error: object) -> str:
    """The first line of a library's error, without the advice and the lists that follow."""
    return printable(str(error).strip().partition("\n")[0].rstrip(".:")[:300])


def file_stamp(file: Path) -> list[int]:
    """Numbers that change with a file: its size and its modification time."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def require_inside(file: Path, roots: Sequence[Path], subject: str) -> Path:
    """The absolute path of a file.

    Raises UserError, which starts with `subject`, if it lies in none of the folders.
    """
    file = Path(os.path.abspath(file))
    if not any(file.is_relative_to(root) for root in roots):
        raise UserError(
            f"{printable(subject)} is said to be in {printable(file)}, which is not its own folder: nothing "
            "there is read"
        )
    return file
