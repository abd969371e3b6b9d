"""The columns of a list of images, under the names that people give them, and the separator of its cells."""

from collections.abc import Sequence

from convatlas.errors import UserError, printable

SEPARATORS = (",", ";", "\t", "|")
# Each column's names, in lower case without spaces, `_` and `-`; its own name comes first.
NAMES = {
    "file": (
        *("file", "filename", "filepath", "path", "image", "imagefile", "imagename", "imagepath", "imageid"),
        *("img", "imgfile", "imgname", "imgpath", "imgid", "relativepath", "relpath", "fname", "photo"),
    ),
    "label": ("label", "labels", "labelname", "class", "classname", "target", "category", "categoryname"),
    "split": ("split", "subset", "partition", "splitname"),
    "group": ("group", "groupid", "groupname"),
}
REQUIRED = ("file", "label")
UNDERSTOOD = (
    "file (or filename, path, image, ...) and label (or class, target, category, ...), and optionally split "
    "and group"
)
MAX_COLUMNS = 12  # that a message shows


def find_columns(header: Sequence[str], subject: str) -> dict[str, str]:
    """The name in `header` of each of our columns that a list has.

    A column called by our own name comes before others; capitals, spaces, `_` and `-` do not matter. Raises
    UserError, which starts with `subject`, for a column that is missing or ambiguous.
    """
    simple = [name.lower().translate(str.maketrans("", "", " _-")) for name in header]
    columns = {}
    for column, names in NAMES.items():
        own = [name for name, key in zip(header, simple, strict=True) if key == column]
        matches = own or [name for name, key in zip(header, simple, strict=True) if key in names]
        if len(matches) > 1:
            raise UserError(
                f"{subject} has several columns for the {column}, {_list(matches)}: rename the one to use to "
                f"{column}, and the others"
            )
        if matches:
            columns[column] = matches[0]
        elif column in REQUIRED:
            raise UserError(
                f"{subject} has no column for the {column}: its columns are {_list(header) or 'none'}; "
                f"understood are {UNDERSTOOD}"
            )
    return columns


def detect_separator(line: str) -> str:
    """The character that separates the cells of a first line: the one that gives columns we know.

    A comma if none does.
    """

    def known(separator: str) -> int:
        cells = [cell.strip().strip('"').strip() for cell in line.strip().split(separator)]
        simple = {cell.lower().translate(str.maketrans("", "", " _-")) for cell in cells}
        return sum(not simple.isdisjoint(names) for names in NAMES.values())

    return max(SEPARATORS, key=lambda separator: (known(separator), line.count(separator)))


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_COLUMNS} more" if len(names) > MAX_COLUMNS else ""
    return ", ".join(repr(printable(name[:40])) for name in names[:MAX_COLUMNS]) + more
