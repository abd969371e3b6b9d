"""Records: frozen values that describe a run, a recipe, a network. Strict to read, canonical to write, hashable to an id."""

import hashlib
from typing import Any, Self, TypeVar

import msgspec

from convatlas.errors import UsageError, unknown_name

T = TypeVar("T")
R = TypeVar("R", bound="Record")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen record. Fields and types are checked whenever one is read; unknown fields are refused."""

    def replace(self, **changes: Any) -> Self:
        """The same record with some fields changed."""
        return msgspec.structs.replace(self, **changes)


def to_json(record: Any, indent: int = 0) -> bytes:
    """Canonical JSON: keys sorted, numbers in one form (an int in a float's field becomes a float)."""
    if isinstance(record, Record):
        record = msgspec.convert(msgspec.to_builtins(record), type(record))
    data = msgspec.json.encode(record, order="sorted")
    return msgspec.json.format(data, indent=indent) if indent else data


def from_json(data: bytes, type_: type[T], where: str) -> T:
    """Read a record. Raises UsageError with `where` and the path of the field that does not fit."""
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # ValidationError is one of the first
        raise UsageError(f"{where}: {error}") from None


def record_sha256(record: Any) -> str:
    """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(to_json(record)).hexdigest()


def diff(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two records or documents differ, as `key.path: this -> that`."""
    a, b = (msgspec.to_builtins(value) for value in (a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        return [line for key in keys for line in diff(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))]
    return [] if a == b else [f"{path}: {_short(a)} -> {_short(b)}"]


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def override(record: R, assignment: str) -> R:
    """`record` with one field set by a user's `key.path=value`; the value is JSON, or a bare word.

    Raises UsageError when there is no such field (naming the nearest) or the value does not fit.
    """
    path, equals, text = assignment.partition("=")
    if not equals:
        raise UsageError(f"--set {assignment!r}: expected key.path=value, for example --set recipe.batch=64")
    try:
        value: Any = msgspec.json.decode(text.encode())
    except msgspec.DecodeError:
        value = text
    tree = msgspec.json.decode(msgspec.json.encode(record))
    *parents, last = path.split(".")
    node = tree
    for key in parents:
        node = _child(node, key, path)
    _child(node, last, path)
    node[int(last) if isinstance(node, list) else last] = value
    try:
        return msgspec.convert(tree, type(record))
    except msgspec.ValidationError as error:
        raise UsageError(f"--set {assignment}: {error}") from None


def _child(node: Any, key: str, path: str) -> Any:
    known = [str(i) for i in range(len(node))] if isinstance(node, list) else list(node) if isinstance(node, dict) else []
    if key not in known:
        raise (
            unknown_name(f"field in --set {path}:", key, known) if known else UsageError(f"--set {path}: {key!r} is inside a single value")
        )
    return node[int(key)] if isinstance(node, list) else node[key]
