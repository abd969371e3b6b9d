"""Records: frozen values that describe a run, a recipe or a network. They are validated strictly when read,
written as canonical JSON, and identified by a hash."""

import hashlib
from typing import Any, Self, TypeVar

import msgspec

from convatlas.errors import UsageError, unknown_name

T = TypeVar("T")
R = TypeVar("R", bound="Record")
MAX_MESSAGE_LENGTH = 400


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen record. Fields and types are checked whenever a record is read; unknown fields are refused."""

    def replace(self, **changes: Any) -> Self:
        """The same record with some fields changed."""
        return msgspec.structs.replace(self, **changes)


def to_json(record: Any, indent: int = 0) -> bytes:
    """Canonical JSON: sorted keys, and one form for each number (an int in a float field becomes a float)."""
    if isinstance(record, Record):
        record = msgspec.convert(msgspec.to_builtins(record), type(record))
    data = msgspec.json.encode(record, order="sorted")
    return msgspec.json.format(data, indent=indent) if indent else data


def from_json(data: bytes, type_: type[T], source: str) -> T:
    """Read a record. Raises UsageError that names `source` and the path of the invalid field."""
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = str(error)
        if len(message) > MAX_MESSAGE_LENGTH:  # it repeats the value, and ends with the path of the field
            message = f"{message[: MAX_MESSAGE_LENGTH // 2]}...{message[-MAX_MESSAGE_LENGTH // 2 :]}"
        raise UsageError(f"{source}: {message}") from None


def record_sha256(record: Any) -> str:
    """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(to_json(record)).hexdigest()


def diff(a: Any, b: Any, path: str = "") -> list[str]:
    """The differences between two records or documents, each as `key.path: a's value -> b's value`."""
    a, b = (msgspec.to_builtins(value) for value in (a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        prefix = f"{path}." if path else ""
        return [line for key in keys for line in diff(a.get(key), b.get(key), f"{prefix}{key}")]
    return [] if a == b else [f"{path}: {_shorten(a)} -> {_shorten(b)}"]


def _shorten(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def override(record: R, assignment: str) -> R:
    """The record with one field set by a user's `key.path=value`; the value is JSON, or a bare word.

    Raises UsageError when the field does not exist (naming the nearest) or the value is invalid.
    """
    path, value = parse_assignment(assignment, "recipe.batch=64")
    tree: Any = _all_fields(record)
    *parents, last_key = path.split(".")
    node = tree
    for key in parents:
        node = _child(node, key, path)
    _child(node, last_key, path)
    node[int(last_key) if isinstance(node, list) else last_key] = value
    try:
        return msgspec.convert(tree, type(record))
    except msgspec.ValidationError as error:
        raise UsageError(f"--set {assignment}: {error}") from None


def _all_fields(record: Record) -> dict[str, Any]:
    """The record as a document that also has the fields which are not written because they are the
    default."""
    tree: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(record))
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, Record):
            tree[name] = _all_fields(value)
        elif name not in tree:
            tree[name] = msgspec.to_builtins(value)
    return tree


def parse_assignment(assignment: str, example: str) -> tuple[str, Any]:
    """The path and the value of a user's `key.path=value`; the value is JSON, or a bare word. Raises
    UsageError, with the example, for anything else."""
    path, equals, text = assignment.partition("=")
    if not equals:
        raise UsageError(f"--set {assignment!r}: expected key.path=value, for example --set {example}")
    try:
        return path, msgspec.json.decode(text.encode())
    except msgspec.DecodeError:
        return path, text


def _child(node: Any, key: str, path: str) -> Any:
    if isinstance(node, list):
        keys = [str(i) for i in range(len(node))]
    else:
        keys = list(node) if isinstance(node, dict) else []
    if not keys:
        raise UsageError(f"--set {path}: {key!r} is inside a single value")
    if key not in keys:
        raise unknown_name(f"field in --set {path}:", key, keys)
    return node[int(key)] if isinstance(node, list) else node[key]
