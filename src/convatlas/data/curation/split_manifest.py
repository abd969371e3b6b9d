"""A split of a data set's files as a manifest that trainings read."""

import csv
import io
import os
from pathlib import Path

from convatlas.data.curation.split_files import FileSplit
from convatlas.names import encodable, escape_name


def manifest_csv(split: FileSplit, folder: Path) -> bytes:
    """The manifest as CSV, with names relative to `folder`, escaped as `convatlas.names` says."""
    source, files = split.source, split.files
    groups = source.groups
    split_by_index = {int(index): name for name, indices in split.splits.items() for index in indices}
    path_to_root = os.path.relpath(os.path.abspath(files.root), os.path.abspath(folder))
    rows = [("file", "label", "split", "group") if groups is not None else ("file", "label", "split")]
    for index in sorted(split_by_index):
        name = files.names[index]
        label = source.classes[source.labels[index]]
        row = (_manifest_name(os.path.join(path_to_root, name)), label, split_by_index[index])
        if groups is None:
            rows.append(row)
            continue
        # a source names a group `group NAME`, and the group of an ungrouped image after its file
        group = "" if groups[index] == name else groups[index].removeprefix("group ")
        rows.append((*row, encodable(group)))
    text = io.StringIO()
    is_plain = all(cell == cell.strip() and cell.isprintable() for row in rows for cell in row)
    writer = csv.writer(text, quoting=csv.QUOTE_MINIMAL if is_plain else csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows(rows)
    return text.getvalue().encode()


def _manifest_name(name: str) -> str:
    name = escape_name(os.path.normpath(name))
    return f"{name[0]}\\x3a{name[2:]}" if name[1:2] == ":" else name  # else it would be read as a drive
