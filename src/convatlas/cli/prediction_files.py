"""`predict` where it writes files: their names, and the documents of the images in order on every rank."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convatlas.errors import UserError, printable
from convatlas.names import escape_name

if TYPE_CHECKING:
    from convatlas.runtime.distributed.ranks import Ranks

Documents = Iterator[dict[str, Any]]


def shared_documents(
    files: Iterable[str], folder: Path, ranks: "Ranks", document: Callable[[str, str], dict[str, Any]]
) -> Documents:
    """Yield the document of each image file, in order on every rank; each rank makes those of its share.
    `document(file, name)` writes files that are called `name` in `folder`."""
    from convatlas.runtime.progress import track

    names = _Names(folder)
    numbered: Iterator[tuple[str, str]] = ((file, names.new(file)) for file in files)
    if isinstance(files, list):
        numbered = track(numbered, len(files), "images")
    while group := list(islice(numbered, ranks.world_size)):
        own = group[ranks.rank : ranks.rank + 1]
        documents = [document(file, name) for file, name in own]
        yield from (item for share in ranks.all_gather(documents) for item in share)


def write_files(folder: Path, content: dict[str, bytes]) -> dict[str, str]:
    """Write files by their names: their paths, for a document. Raises UserError where the folder cannot be
    written."""
    from convatlas.storage.atomic import atomic_write

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            atomic_write(folder / name, data)
    except OSError as error:
        raise UserError(f"cannot write to {printable(folder)}: {error.strerror}") from None
    return {name: escape_name(folder / name) for name in content}


class _Names:
    """Names of output files, each once: images of equal names in different folders are numbered."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.counts: dict[str, int] = {}

    def new(self, file: str) -> str:
        stem = escape_name(Path(file).stem).replace("\\", "_")
        self.counts[stem] = self.counts.get(stem, 0) + 1
        return stem if self.counts[stem] == 1 else f"{stem}-{self.counts[stem]}"
