"""A file of class names: one a line, `index,name` a line, a JSON list, or a JSON object from index to name.

Anything else is refused: a name that is taken from the wrong column labels every prediction wrongly.
"""

import csv
import io
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from convatlas.data.sources.labels import validate_class_name
from convatlas.errors import UserError, printable
from convatlas.storage.regular_file import open_regular

MAX_BYTES = 16 << 20
EXPECTED = "expected one name a line, index,name a line, a JSON list, or a JSON object from index to name"
BACKGROUND = "background"
_INDEX = re.compile(r"[0-9]{1,7}")
_NUMBERED = re.compile(r"([0-9]{1,7})(?:\t|  *(?=\w)|\s*[:;=|]\s*)\S.*")  # a number, a separator, a name


def read_class_names(file: Path, max_bytes: int = MAX_BYTES) -> dict[int, str]:
    """The names of classes by their indices, which may lack some: an empty line, in a file with one name a
    line, gives its index no name.

    Raises UserError for a file that cannot be read or holds anything else, a name or an index that occurs
    twice, and an `index,name` file or JSON object that leaves an index out.
    """
    text = _read_text(file, max_bytes)
    start = text.lstrip()[:1]
    names = _from_json(text, file) if start in ("[", "{") else _from_lines(text, file)
    indices: dict[str, int] = {}
    for index, name in names.items():
        if name in indices:
            raise UserError(
                f"{printable(file)} names the class '{printable(name)}' twice, for the indices "
                f"{indices[name]} and {index}: each class needs its own name"
            )
        indices[name] = index
    return names


def list_class_names(file: Path, num_classes: int, weights: str) -> tuple[str, ...]:
    """The names of exactly `num_classes` classes, those of `weights`, in order; empty lines are skipped.

    Raises UserError like `read_class_names`, and for another number of names.
    """
    names = read_class_names(file)
    if len(names) != num_classes:
        raise UserError(
            f"{printable(file)} names {len(names):,} classes, but the weights of {weights} are for "
            f"{num_classes:,}: list every class once, in the order of the outputs"
        )
    return tuple(names[index] for index in sorted(names))


def imagenet_wnids_and_names() -> tuple[tuple[str, str], ...]:
    """WordNet's id and the name of each of the 1,000 classes of ILSVRC 2012, in the usual order, that of the
    ids. Names that two classes share have their ids appended."""
    text = files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple((wnid, name) for wnid, _, name in (line.partition(" ") for line in lines))


def imagenet_class_names(num_classes: int = 1000) -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes; of 1,001 the first is the background, as TensorFlow's networks
    have it. Raises UserError for another number."""
    names = tuple(name for _, name in imagenet_wnids_and_names())
    if num_classes == len(names):
        return names
    if num_classes == len(names) + 1:
        return (BACKGROUND, *names)
    raise UserError(
        f"ImageNet has 1,000 classes (1,001 with the background), but the weights are for {num_classes:,}: "
        "name them with --classes FILE"
    )


def _read_text(file: Path, max_bytes: int) -> str:
    try:
        with open_regular(file) as stream:
            content = stream.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise UserError(f"{printable(file)} is too large for a list of classes: {EXPECTED}")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {printable(file)}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{printable(file)} is not UTF-8 text (byte {error.start:,}): save it as UTF-8; {EXPECTED}"
        ) from None


def _from_json(text: str, file: Path) -> dict[int, str]:
    kind = "list" if text.lstrip().startswith("[") else "object"
    try:
        content = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        raise UserError(
            f"{printable(file)} begins like a JSON {kind} but is none: {EXPECTED}, with double quotes"
        ) from None
    if not isinstance(content, _Pairs):
        pairs: list[tuple[Any, Any]] = list(enumerate(content))
    else:
        pairs = list(content)
        if pairs and not all(_INDEX.fullmatch(key) for key, _ in pairs):
            key = next(key for key, _ in pairs if not _INDEX.fullmatch(key))
            raise UserError(f"{printable(file)} is a JSON object with the key {_excerpt(key)}: {EXPECTED}")
    names: dict[int, str] = {}
    for key, value in pairs:
        if kind == "object" and isinstance(value, list) and len(value) == 2:
            value = value[1]  # WordNet's id and the name, as Keras lists ImageNet's classes
        if not isinstance(value, str):
            raise UserError(
                f"{printable(file)} holds something other than names, {_KINDS.get(type(value), 'a number')} "
                f"for index {key}: {EXPECTED}"
            )
        _add(names, int(key), value, f"{printable(file)}, index {key},", file)
    return _without_gaps(names, file)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with every key, also one that occurs twice."""


_KINDS = {_Pairs: "an object", list: "a list", bool: "true or false", type(None): "null"}


def _from_lines(text: str, file: Path) -> dict[int, str]:
    """Names that stand in lines: with their indices before a comma, or alone."""
    lines = [(number, line.strip()) for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1)]
    filled = [(number, line) for number, line in lines if line]
    indexed = [bool(re.match(r'"?[0-9]{1,7}"?\s*,', line)) for _, line in filled]
    has_header = len(filled) > 1 and not indexed[0] and all(indexed[1:])
    if filled and (all(indexed) or has_header):
        return _from_csv(text, has_header, file)
    if any(indexed):
        number, line = filled[indexed.index(False)]
        raise UserError(
            f"{printable(file)} has an index before the name in {sum(indexed):,} lines but not in line "
            f"{number}, {_excerpt(line)}: {EXPECTED}"
        )
    _refuse_other_tables([line for _, line in filled], file)
    return {
        number - 1: validate_class_name(line, f"{printable(file)}, line {number}") for number, line in filled
    }


def _from_csv(text: str, has_header: bool, file: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(
            f"{printable(file)}, line {reader.line_num}, is no CSV ({error}): {EXPECTED}"
        ) from None
    for number, row in rows[has_header:]:
        if len(row) != 2 or not _INDEX.fullmatch(row[0].strip()):
            raise UserError(
                f"{printable(file)}, line {number}, has {len(row)} columns, {_excerpt(','.join(row))}: "
                "expected index,name, and quotes around a name that contains a comma"
            )
        _add(names, int(row[0]), row[1], f"{printable(file)}, line {number}", file)
    if has_header and len(rows[0][1]) != 2:
        raise UserError(
            f"{printable(file)} has {len(rows[0][1])} columns in its header, {_excerpt(','.join(rows[0][1]))}"
            ": expected index,name"
        )
    return _without_gaps(names, file)


def _refuse_other_tables(lines: list[str], file: Path) -> None:
    """Raise UserError for lines that hold more than a name: another separator or order, or a YAML list."""
    for rows in (lines, lines[1:]):  # with and without a header
        if len(rows) < 2:
            continue
        example = _excerpt(rows[0])
        numbers = [match[1] if (match := _NUMBERED.fullmatch(row)) else None for row in rows]
        last = [cells[-1].strip() for row in rows if len(cells := row.split(",")) > 1]
        for indices in (numbers, last if len(last) == len(rows) else [None]):
            if all(index is not None and _INDEX.fullmatch(index) for index in indices) and _are_consecutive(
                [int(index) for index in indices if index]
            ):
                raise UserError(
                    f"{printable(file)} has lines such as {example}, with a number each: {EXPECTED}"
                )
        if all(row.startswith("- ") for row in rows):
            raise UserError(f"{printable(file)} has lines such as {example}, a YAML list: {EXPECTED}")


def _are_consecutive(indices: list[int]) -> bool:
    return sorted(indices) == list(range(min(indices), min(indices) + len(indices)))


def _add(names: dict[int, str], index: int, name: str, position: str, file: Path) -> None:
    if index in names:
        raise UserError(f"{printable(file)} names the class of index {index} twice: {EXPECTED}")
    names[index] = validate_class_name(name, position)


def _without_gaps(names: dict[int, str], file: Path) -> dict[int, str]:
    if names and sorted(names) != list(range(len(names))):
        absent = next(index for index in range(len(names)) if index not in names)
        raise UserError(
            f"{printable(file)} names {len(names):,} classes with indices from {min(names)} to {max(names)}, "
            f"and none with index {absent}: indices count from 0 without gaps"
        )
    return names


def _excerpt(text: str) -> str:
    return f"'{printable(text if len(text) <= 40 else f'{text[:40]}...')}'"
