"""What reading a large file has told, kept in the user's cache for as long as the file stays as it is."""

import hashlib
from collections.abc import Callable
from typing import TypeVar

import msgspec

from convatlas.data.fingerprints import fingerprint
from convatlas.data.locate import cache_folder
from convatlas.storage.disk import replace

T = TypeVar("T")


def remembered(kind: str, name: str, state: list[int], type_: type[T], find: Callable[[], T]) -> T:
    """What `find` says of the thing of this name. It is asked again where `state` (format, sizes, times of change) is another than
    then, or the note of it is damaged."""
    note = cache_folder() / kind / f"{fingerprint(name.encode(errors='surrogateescape')).hex()}.msgpack"
    try:
        content = note.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            then, value = msgspec.msgpack.decode(content[32:], type=tuple[list[int], type_])  # type: ignore[valid-type]
            if then == state:
                return value
    except (OSError, msgspec.DecodeError):
        pass
    value = find()
    encoded = msgspec.msgpack.encode((state, value))
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        replace(note, hashlib.sha256(encoded).digest() + encoded)
    except OSError:
        pass  # it only saves time
    return value
