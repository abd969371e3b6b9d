"""Images in a column of Arrow files, a row a sample: mapped into memory and read by row, in any order.

Format: arrow.apache.org/docs/format/Columnar.html, "IPC Streaming Format"; of the column, huggingface.co/docs/datasets, "Image".
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
    """Images in a column of Arrow files, which every process opens for itself."""

    source: str
    splits: Sequence[str]
    starts: NDArray[np.int64]  # of every split: its first row, and last the number of all
    files: Sequence[Path]
    stamps: Sequence[list[int]]  # of the files
    image_column: str
    roots: Sequence[Path]  # where image files may lie that a row names instead of holding their bytes; named from the first

    def __len__(self) -> int:
        return int(self.starts[-1])

    def name(self, index: int) -> str:
        split = int(np.searchsorted(self.starts, index, "right")) - 1
        return f"{self.source}{' ' if self.splits[split] else ''}{self.splits[split]} #{index - self.starts[split]}"

    def image(self, index: int) -> EncodedImage:
        """Raises UserError for files that have changed, or a row that names a file elsewhere: those are no faults of an image."""
        return EncodedImage(self.content(index), self.name(index))

    def content(self, index: int) -> bytes:
        """An image file, empty where a row has none. Raises UnreadableImage for a file that is gone, else as `picture`."""
        chunks, starts = self._chunks
        chunk = int(np.searchsorted(starts, index, "right")) - 1
        row = chunks[chunk][index - int(starts[chunk])].as_py() or {}
        if row.get("bytes") is None and row.get("path"):
            return decode.open_image(require_inside(self.roots[0] / row["path"], self.roots, self.name(index))).data
        return row.get("bytes") or b""

    def column(self, name: str) -> list[Any]:
        """A column's Arrow arrays, one after the other."""
        import pyarrow

        try:
            if [file_stamp(file) for file in self.files] != self.stamps:
                raise UserError(f"{printable(self.source)} was changed while it is in use: start again")
            tables = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all() for file in self.files]
            chunks = [chunk for table in tables for chunk in table.column(name).chunks]
            for chunk in chunks:
                chunk.validate(full=True)  # offsets that lead out of a file would end the process
        except (pyarrow.ArrowException, OSError, KeyError) as error:
            raise UserError(f"{printable(self.source)} is damaged ({first_line(error)}): fetch or write it again") from None
        return chunks

    @cached_property
    def _chunks(self) -> tuple[list[Any], NDArray[np.int64]]:
        chunks = self.column(self.image_column)
        return chunks, np.cumsum([0, *map(len, chunks)], dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # without the mapped arrays: they would be copied


def first_line(error: object) -> str:
    """What a library says, without the advice and the lists that it adds."""
    return printable(str(error).strip().partition("\n")[0].rstrip(".:")[:300])


def file_stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def require_inside(file: Path, roots: Sequence[Path], where: str) -> Path:
    """Raises UserError for a file that does not lie in one of these folders."""
    file = Path(os.path.abspath(file))
    if not any(file.is_relative_to(root) for root in roots):
        raise UserError(f"{printable(where)} is said to be in {printable(file)}, which is not its own folder: nothing there is read")
    return file
