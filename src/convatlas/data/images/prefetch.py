"""Decode image files in threads while the caller computes."""

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
    """Yield (file, transformed image or the error of this file), in order.

    One thread per core decodes and transforms the next files. At most `max_ahead` of them are taken from
    `files` and held in memory, so `files` may be endless.
    """

    def load(file: str | Path) -> Tensor | UserError:
        try:
            return transform(decode.open_image(Path(file)))
        except UserError as error:
            return error

    queue: deque[tuple[str, Future[Tensor | UserError]]] = deque()
    threads = single_threaded_pool(usable_cores(), "reading")
    try:
        for file in files:
            queue.append((str(file), threads.submit(load, file)))
            if len(queue) == max_ahead:
                name, future = queue.popleft()
                yield name, future.result()
        for name, future in queue:
            yield name, future.result()
    finally:
        for _, future in queue:
            future.cancel()
