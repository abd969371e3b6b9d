"""Names of files and classes as text that can stand in any document, table or message.

The name of a file is a sequence of bytes; Python holds those that are no UTF-8 as lone surrogates, which no
encoder accepts. The one rule: a byte that is not part of printable UTF-8 text is written as `\\xNN`.
Documents write a backslash as `\\x5c`, so that the name can be read back; text for people leaves it as it is.
"""

import os
import re
import unicodedata

_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def printable(text: object) -> str:
    """Text from files and folders as one harmless line, without control characters for the terminal."""
    line = str(text)
    return line if line.isprintable() else "".join(map(_escape, line))


def escape_name(name: str | os.PathLike[str]) -> str:
    """A name for a document: printable, and read back by `unescape_name`."""
    return printable(os.fspath(name).replace("\\", "\\x5c"))


def unescape_name(text: str) -> str:
    """The name that `escape_name` wrote, with bytes that are no UTF-8 as Python's own functions give them."""
    if not _ESCAPE.search(text):
        return text
    data = os.fsencode(text)
    return os.fsdecode(re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), data))


def encodable(text: str) -> str:
    """Text that UTF-8 can encode: unchanged if it can, else escaped as a name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return escape_name(text)
    return text


def resolve_path(text: str) -> str:
    """The path that `text` names: as it stands, or, where there is none, the one that was escaped in it."""
    path = unescape_name(text)
    if path == text or os.path.lexists(text):
        return text
    # a pattern need not be a file
    has_folder = os.path.lexists(os.path.dirname(path)) and not os.path.lexists(os.path.dirname(text))
    return path if os.path.lexists(path) or has_folder else text


def _escape(character: str) -> str:
    # spaces of other widths stand in the names that systems give to screenshots
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))
