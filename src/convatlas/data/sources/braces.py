"""Brace expansion as in bash: the names that `{a,b}` and `{000..012}` stand for, nested or not."""

import re
from collections.abc import Sequence

from convatlas.errors import UserError, printable

MAX_SHARDS = 100_000
MAX_BRACES = 200  # in one pattern


def expand_braces(pattern: str) -> list[str]:
    """All names that a pattern stands for, in order. Braces that hold no list and no range are plain text.

    Raises UserError for a range that falls, and for more than MAX_SHARDS names.
    """
    if pattern.count("{") > MAX_BRACES:
        raise UserError(
            f"{printable(pattern[:40])}... has more than {MAX_BRACES} braces: name the shards with *"
        )
    names = [""]
    position = 0
    start = pattern.find("{")
    while start >= 0:
        pieces = _split_list(pattern, start)
        choices = _expand_pieces(pieces)
        if choices is None:
            start = pattern.find("{", start + 1)
            continue
        _check_count(len(names) * len(choices), pattern)
        text = pattern[position:start]
        names = [name + text + choice for name in names for choice in choices]
        position = start + len("{" + ",".join(pieces) + "}")
        start = pattern.find("{", position)
    return [name + pattern[position:] for name in names]


def _split_list(pattern: str, start: int) -> list[str]:
    """The text between the brace at `start` and its closing brace, cut at the commas outside inner braces.

    Empty if no brace closes it. As in bash, a closing brace before any comma or `..` is plain text.
    """
    pieces: list[str] = []
    depth = 0
    is_range = False
    piece_start = start + 1
    for position in range(piece_start, len(pattern)):
        character = pattern[position]
        if character == "{":
            depth += 1
        elif character == "}" and depth:
            depth -= 1
        elif depth == 0:
            is_range = is_range or re.match(r"\.\.(?!})", pattern[position : position + 3]) is not None
            closes = character == "}" and (pieces or is_range)
            if character == "," or closes:
                pieces.append(pattern[piece_start:position])
                piece_start = position + 1
            if closes:
                return pieces
    return []


def _expand_pieces(pieces: Sequence[str]) -> list[str] | None:
    """The choices that a list or a range in braces stands for; None for plain text."""
    if len(pieces) > 1:
        choices: list[str] = []
        for piece in pieces:
            choices += expand_braces(piece)
            _check_count(len(choices), ",".join(pieces))
        return choices
    match = re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", pieces[0]) if pieces else None
    if match is None:
        return None
    first, last = match.groups()
    count = int(last) - int(first) + 1
    if not 0 < count <= MAX_SHARDS:
        raise UserError(
            f"{{{pieces[0]}}} stands for {max(count, 0):,} shards: expected a range that rises, of at most "
            f"{MAX_SHARDS:,}"
        )
    is_padded = re.match("0.", first) or re.match("0.", last)
    width = max(len(first), len(last)) if is_padded else 0
    return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]


def _check_count(count: int, pattern: str) -> None:
    if count > MAX_SHARDS:
        raise UserError(f"{printable(pattern)} stands for more than {MAX_SHARDS:,} shards")
