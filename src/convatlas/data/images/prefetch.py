"""Decode images in threads while the caller computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from convatlas.data.images.decode import ImageLike
from convatlas.data.images.inputs import image_name, read_image
from convatlas.errors import UserError
from convatlas.runtime.num_threads import usable_cores
from convatlas.runtime.threads import single_threaded_pool

T = TypeVar("T")


def decode_ahead(
    images: Iterable[Any], transform: Callable[[ImageLike], T], max_ahead: int
) -> Iterator[tuple[str, T | UserError]]:
    """Yield (name, transformed image or the error of this image), in order. `images`: those of `ImageInput`.

    One thread per core decodes and transforms the next images. At most `max_ahead` of them are taken from
    `images` and held in memory, so `images` may be endless.
    """

    def load(image: Any, name: str) -> T | UserError:
        try:
            return transform(read_image(image, name))
        except UserError as error:
            return error

    queue: deque[tuple[str, Future[T | UserError]]] = deque()
    threads = single_threaded_pool(usable_cores(), "reading")
    try:
        for index, image in enumerate(images):
            name = image_name(image, index)
            queue.append((name, threads.submit(load, image, name)))
            if len(queue) == max_ahead:
                name, future = queue.popleft()
                yield name, future.result()
        for name, future in queue:
            yield name, future.result()
    finally:
        for _, future in queue:
            future.cancel()
