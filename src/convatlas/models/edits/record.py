"""The base of the edits: frozen records that change a module in place."""

import re
import types
from functools import cache
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import msgspec

from convatlas.errors import UsageError, printable, unknown_name
from convatlas.models.edits.target import Target
from convatlas.storage.records import Record, encode_json


class EditRecord(Record, frozen=True, kw_only=True):
    """A change of a module. Its text is that of `--edit`: SwapNorm(to=group, groups=4).

    Raises UsageError for a value that a field cannot have; the message names the nearest.
    """

    needs_forward: ClassVar[bool] = False  # whether `change` looks at the shapes of a forward

    def __post_init__(self) -> None:
        for field, hint in field_types(type(self)).items():
            _check_field(f"{field} of {type(self).__name__}", getattr(self, field), hint)

    def __str__(self) -> str:
        fields = [
            f"{field.name}={_field_text(getattr(self, field.name))}"
            for field in msgspec.structs.fields(self)
            if field.required or getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(fields)})"

    def change(self, target: Target) -> bool:
        """Change the module in place; False where it has no place to change.

        Raises UsageError for a place that this edit cannot change.
        """
        raise NotImplementedError

    def nothing(self, target: Target) -> str:
        """Why there is no place to change, as the end of a sentence."""
        raise NotImplementedError

    @property
    def excluded_operators(self) -> frozenset[str]:
        """The operators that the module may not run after the change."""
        return frozenset()


@cache
def field_types(kind: type[EditRecord]) -> dict[str, Any]:
    """The fields of an edit and their types."""
    hints = get_type_hints(kind)
    return {field: hints[field] for field in kind.__struct_fields__}


def _check_field(field: str, value: Any, hint: Any) -> None:
    choices = _choices(hint)
    if choices and value is None and type(None) in get_args(hint):
        return
    if choices and value not in choices:
        raise unknown_name(field.replace(" of ", " in "), value, choices)
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        expected = {int: "a whole number", float: "a number", str: "text"}.get(hint, str(hint))
        raise UsageError(f"{field} should be {expected}, not {printable(repr(value))[:60]}") from None


def _choices(hint: Any) -> list[str]:
    """The names among which a field chooses."""
    if get_origin(hint) is types.UnionType:
        return [choice for part in get_args(hint) for choice in _choices(part)]
    return list(get_args(hint)) if get_origin(hint) is Literal else []


def _field_text(value: Any) -> str:
    """A bare word where it reads back as the same text, else JSON."""
    text = encode_json(value).decode()
    is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.]*", value)
    return text[1:-1] if is_word and value not in ("true", "false", "null") else text
