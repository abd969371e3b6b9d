"""A strict reader of struct arrays in MATLAB files, for the devkit's meta.mat.

scipy's reader ends the process on some damaged files. Here every size is checked before it is used.
Format: MathWorks, "MAT-File Format", chapter 1, "Level 5 MAT-File Format", little-endian.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence

HEADER_BYTES = 128
MAX_BYTES = 64 << 20  # of a variable after it is decompressed
MATRIX, COMPRESSED = 14, 15  # types of elements
STRUCT, CHAR = 2, 4  # classes of matrices
NUMBERS = range(6, 16)  # further classes: from double to uint64
NUMBER_CODES = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}  # by type
TEXT_ENCODINGS = {1: "ascii", 2: "ascii", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}

Element = tuple[int, bytes]  # type and content


def read_structs(data: bytes, variable: str, fields: Sequence[str]) -> list[tuple[float | str, ...]]:
    """The values of these fields, for every struct in an array. Raises ValueError for any other content.

    A value is a text, or the first number of an array.
    """
    try:
        for type_, content in _elements(data[HEADER_BYTES:]):
            if type_ == COMPRESSED:
                type_, content = next(_elements(zlib.decompressobj().decompress(content, MAX_BYTES)))
            class_, name, elements = _open_matrix((type_, content))
            if name == variable and class_ == STRUCT:
                return _read_fields(elements, fields)
    except (struct.error, zlib.error, LookupError, StopIteration) as error:
        raise ValueError(f"{type(error).__name__} {error}".strip()) from None
    raise ValueError(f"no struct array {variable}")


def _elements(data: bytes) -> Iterator[Element]:
    """Yield every element: a tag of 8 bytes, the content, and padding to 8 bytes.

    Content of up to 4 bytes may lie in the tag itself.
    """
    start = 0
    while start < len(data):
        type_, size = struct.unpack_from("<II", data, start)
        end = start + 8 + size + (-size % 8 if type_ != COMPRESSED else 0)
        content = data[start + 8 : start + 8 + size]
        if type_ >> 16:
            type_, size = type_ & 0xFFFF, type_ >> 16
            end = start + 8
            content = data[start + 4 : min(start + 4 + size, end)]
        if len(content) != size:
            raise ValueError(f"an element of {size:,} bytes is cut short")
        yield type_, content
        start = end


def _open_matrix(element: Element) -> tuple[int, str, list[Element]]:
    """The class of a matrix, its name, and the elements after its dimensions and its name."""
    type_, content = element
    if type_ != MATRIX:
        raise ValueError(f"expected a matrix, not an element of type {type_}")
    (_, flags), _, (_, name), *elements = _elements(content)
    return flags[0], name.decode("ascii"), elements


def _read_fields(elements: Sequence[Element], fields: Sequence[str]) -> list[tuple[float | str, ...]]:
    """The values of these fields, a tuple for each struct.

    The elements are the length of a field's name, the names, and then all fields of every struct.
    """
    (_, length), (_, names), *values = elements
    width = struct.unpack("<I", length)[0]
    columns = [names[i : i + width].rstrip(b"\0").decode("ascii") for i in range(0, len(names), width)]
    indices = [columns.index(field) for field in fields]
    if len(values) % len(columns):
        raise ValueError("the last struct is not complete")
    rows = range(0, len(values), len(columns))
    return [tuple(_read_value(values[row + index]) for index in indices) for row in rows]


def _read_value(element: Element) -> float | str:
    class_, _, elements = _open_matrix(element)
    type_, content = elements[0]
    if class_ == CHAR:
        return content.decode(TEXT_ENCODINGS[type_])
    if class_ not in NUMBERS:
        raise ValueError(f"a field is a matrix of class {class_}")
    return float(struct.unpack_from(f"<{NUMBER_CODES[type_]}", content)[0])
