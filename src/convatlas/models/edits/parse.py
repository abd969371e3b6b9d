"""The text of an edit, as `--edit` takes it."""

import re
from collections.abc import Callable

import msgspec

from convatlas.errors import UsageError, printable, unknown_name
from convatlas.models.edits.kinds import EDITS, Edit
from convatlas.models.edits.record import field_types
from convatlas.names import encodable

_TEXT = re.compile(r"\s*(\w+)\s*(?:\((.*)\)\s*)?", re.DOTALL)
_FIELD = re.compile(r"\s*(\w+)\s*=\s*(\S(?:.*\S)?)\s*", re.DOTALL)


def parse_edit(text: str) -> Edit:
    """The edit of a text such as SwapNorm(to=group, groups=4); values are JSON, or bare words.

    Raises UsageError for a text that is none, for an edit or a field that does not exist, naming the nearest,
    and for a value that the field cannot have.
    """
    match = _TEXT.fullmatch(text)
    if not match:
        raise UsageError(
            f"the edit '{printable(text)}' should be a name and its fields, as SwapActivation(to=tanh)"
        )
    name, arguments = match[1], match[2] or ""
    if name not in EDITS:
        raise unknown_name("edit", name, EDITS)
    kind = EDITS[name]
    types = field_types(kind)
    values: dict[str, object] = {}
    for argument in arguments.split(",") if arguments.strip() else ():
        field = _FIELD.fullmatch(argument)
        if not field:
            raise UsageError(f"the edit '{printable(text)}' should give each field as field=value")
        if field[1] not in types:
            raise (
                unknown_name(f"field of {name}", field[1], types)
                if types
                else UsageError(f"{name} has no fields, so no {printable(field[1])}: leave it out")
            )
        if field[1] in values:
            raise UsageError(f"the edit '{printable(text)}' gives {field[1]} twice")
        values[field[1]] = _value(field[2])
    for field_info in msgspec.structs.fields(kind):
        if field_info.required and field_info.name not in values:
            raise UsageError(f"{name} needs {field_info.name}, as in {name}({field_info.name}=...)")
    make: Callable[..., Edit] = kind
    return make(**values)


def _value(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return encodable(text)
