"""Image files decoded while the caller computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

from torch import Tensor

from convatlas.data.images import decode
from convatlas.data.images.decode import ImageLike
from convatlas.errors import UserError
from convatlas.runtime.device import usable_cores
from convatlas.runtime.threads import single_threaded_pool


def decode_ahead(
    files: Iterable[str | Path], transform: Callable[[ImageLike], Tensor], max_ahead: int
) -> Iterator[tuple[str, Tensor | UserError]]:
    """(file, what `see` makes of it or what is wrong with it), in order; a thread a core works on the next ones, at most `most` of them.

    No more than those are ever in memory, and `files` is asked for no more: it may be endless.
    """

    def one(file: str | Path) -> Tensor | UserError:
        try:
            return transform(decode.open_image(Path(file)))
        except UserError as error:
            return error

    waiting: deque[tuple[str, Future[Tensor | UserError]]] = deque()
    threads = single_threaded_pool(usable_cores(), "reading")
    try:
        for file in files:
            waiting.append((str(file), threads.submit(one, file)))
            if len(waiting) == max_ahead:
                name, seen = waiting.popleft()
                yield name, seen.result()
        for name, seen in waiting:
            yield name, seen.result()
    finally:
        for _, seen in waiting:
            seen.cancel()
