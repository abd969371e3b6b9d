"""Data sets of the Hugging Face Hub, and local folders of the same kinds, loaded by the library `datasets`.

The library converts a data set into Arrow files, a row for each sample. They are mapped into memory and read
by row here: a worker process of a loader needs neither the library nor memory for the data set, and images
are decoded like all others. A program that comes with a data set is never run.
Columns: huggingface.co/docs/datasets, "Image" and "ClassLabel".
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from convatlas.data.dataset import Subset
from convatlas.data.images import decode
from convatlas.data.images.decode import EncodedImage
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.sources.arrow import ArrowImages, file_stamp, first_line, require_inside
from convatlas.data.sources.content_hash import LENGTH, content_hash
from convatlas.data.sources.labels import encode_labels, validate_class_name
from convatlas.data.sources.source import RawDataset
from convatlas.data.sources.split_names import SPLIT_NAMES
from convatlas.errors import UserError, printable
from convatlas.runtime.progress import track
from convatlas.storage.cache import cached

FORMAT = 1  # of the cached ScannedRows
PREFERRED_LABELS = ("label", "fine_label")  # if several columns hold classes
PLAIN_LABELS = (
    "label",
    "class",
)  # columns of text or whole numbers that may hold classes without a list of names
ADVICE = "expected one: keep it with select_columns, and save that with save_to_disk"


class ScannedRows(msgspec.Struct, frozen=True):
    """The result of reading all rows once."""

    content_hashes: bytes  # of the images, one after the other
    all_grayscale: bool  # whether every readable image has one channel


def open_huggingface(location: str) -> RawDataset:
    """Open NAME or NAME:CONFIG of the Hub, or a folder.

    Raises UserError for a data set that is missing, out of reach, or has no labelled images.
    """
    source = f"hf:{location}"
    splits, roots = _load(location, source)
    if not any(map(len, splits.values())):
        raise UserError(f"{printable(source)} has no rows: expected images and their classes")
    features = next(iter(splits.values())).features
    if any(split.features != features for split in splits.values()):
        raise UserError(
            f"{printable(source)} has other columns in some of its splits {printable(', '.join(splits))}: "
            "expected the same"
        )
    image_column, label_column = _find_columns(features, source)
    files = [
        require_inside(Path(file["filename"]), roots, source)
        for split in splits.values()
        for file in split.cache_files
    ]
    stamps = [file_stamp(file) for file in files]
    starts = np.cumsum([0, *map(len, splits.values())], dtype=np.int64)
    rows = ArrowImages(source, list(splits), starts, files, stamps, image_column, roots)

    values = [value for chunk in rows.column(label_column) for value in chunk.to_pylist()]
    if len(values) != len(rows):
        raise UserError(
            f"{printable(source)} is damaged: it has {len(values):,} rows, not {len(rows):,}: fetch or write "
            "it again"
        )
    labelled = np.flatnonzero([value not in (None, "", -1) for value in values])
    classes, labels = _encode(rows, getattr(features[label_column], "names", None), values, labelled)
    published_splits, notes = _published_splits(rows, labelled)
    state = [FORMAT, *(number for stamp in stamps for number in stamp)]
    scanned = cached("hub", repr((image_column, files)), state, ScannedRows, lambda: _scan(rows))
    return RawDataset(
        name=source,
        classes=classes,
        channels=1 if scanned.all_grayscale else 3,
        images=rows if len(labelled) == len(rows) else Subset(rows, labelled),
        labels=labels,
        content_hashes=[
            scanned.content_hashes[row * LENGTH : (row + 1) * LENGTH] for row in labelled.tolist()
        ],
        splits=published_splits,
        notes=notes,
        published=not os.path.exists(os.path.expanduser(location)),
        root=Path(os.path.commonpath([file.parent for file in files])),
    )


def _load(location: str, source: str) -> tuple[dict[str, Any], list[Path]]:
    """The splits as the library's data sets, and the folders in which their files may lie."""
    for variable, value in (("HF_HUB_DISABLE_TELEMETRY", "1"), ("HF_UPDATE_DOWNLOAD_COUNTS", "0")):
        os.environ.setdefault(variable, value)  # before the import, which reads them
    try:
        import datasets
        import huggingface_hub as hub
    except ModuleNotFoundError:
        raise UserError(
            "hf: needs the library datasets, which is not installed: pip install 'convatlas[hf]'"
        ) from None
    for library in (datasets, hub):
        library.logging.set_verbosity(library.logging.CRITICAL)  # errors are reported here, in one sentence
        if not sys.stderr.isatty():
            library.utils.disable_progress_bars()

    exists = os.path.exists(os.path.expanduser(location))  # the name of a folder may hold a colon
    name, _, config = (location, "", "") if exists else location.partition(":")
    folder = Path(os.path.abspath(os.path.expanduser(name)))
    caches = [
        Path(os.path.abspath(cache))
        for cache in (datasets.config.HF_DATASETS_CACHE, hub.constants.HF_HUB_CACHE)
    ]
    roots = [folder, folder.resolve(), *caches] if folder.is_dir() else caches
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            if config:
                raise ValueError("what save_to_disk wrote has no configurations")
            loaded = datasets.load_from_disk(str(folder), keep_in_memory=False)
        elif not folder.is_dir() and hasattr(datasets.packaged_modules, name):
            raise FileNotFoundError(
                f"{name} is a format, by which it would read all files in the current folder"
            )
        else:
            path = str(folder) if folder.is_dir() else name
            loaded = datasets.load_dataset(path, config or None, keep_in_memory=False)
    except Exception as error:  # the library passes on all that its own libraries raise
        raise UserError(f"{printable(source)} {_explain(error, name, config)}") from None
    return dict(loaded) if isinstance(loaded, Mapping) else {"": loaded}, roots


def _explain(error: Exception, name: str, config: str) -> str:
    """The rest of a sentence about a data set that cannot be loaded."""
    if match := re.search(r"[Aa]vailable(?: configs)?: \[(.*?)\]", str(error)):
        problem = f"has no configuration '{printable(config)}'" if config else "has several configurations"
        return f"{problem}: expected hf:{printable(name)}:CONFIG with one of {printable(match[1])}"
    if "scripts are no longer supported" in str(error):
        return (
            "comes as a program, which is never run: look for a copy of it that holds its images in files, "
            "such as parquet"
        )
    if isinstance(error, ConnectionError):
        return (
            "is no folder on this machine, and not in the cache, and the Hugging Face Hub cannot be reached: "
            "go online once, or copy the data set to this machine"
        )
    if isinstance(error, FileNotFoundError):
        return (
            f"cannot be read ({first_line(error)}): expected a data set of the Hub, such as hf:ylecun/mnist, "
            "or a folder of one"
        )
    reason = first_line(error.__cause__ or error)
    return f"cannot be loaded ({reason}): expected a data set that the library datasets can load"


def _find_columns(features: Mapping[str, Any], source: str) -> tuple[str, str]:
    """The names of the columns of images and of classes.

    Raises UserError if either is missing or ambiguous.
    """
    import datasets

    every = f"among {', '.join(features)}"
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if not images:
        raise UserError(f"{printable(source)} has no column of images {printable(every)}: expected one")
    if len(images) > 1:
        raise UserError(
            f"{printable(source)} has several columns of images, {printable(', '.join(images))}: {ADVICE}"
        )
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    preferred = [name for name in PREFERRED_LABELS if name in labels]
    if len(labels) > 1 and not preferred:
        raise UserError(
            f"{printable(source)} has several columns of classes, {printable(', '.join(labels))}: {ADVICE}"
        )
    plain = [name for name in PLAIN_LABELS if _is_text_or_whole_number(features.get(name))]
    usable = preferred or labels or plain
    if not usable:
        raise UserError(
            f"{printable(source)} has no column of classes {printable(every)}: expected one, a ClassLabel, "
            f"or text or whole numbers named {' or '.join(PLAIN_LABELS)}"
        )
    return images[0], usable[0]


def _is_text_or_whole_number(feature: object) -> bool:
    return bool(re.fullmatch(r"(large_)?string|u?int\d+", str(getattr(feature, "dtype", ""))))


def _encode(
    rows: ArrowImages, names: list[str] | None, values: list[Any], labelled: NDArray[np.int64]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The classes, and the labels of the labelled rows. `names` are those of a ClassLabel."""
    if not names:
        return encode_labels(validate_class_name(str(values[row]), rows.name(int(row))) for row in labelled)
    classes = tuple(validate_class_name(name, rows.source) for name in names)
    labels = np.array([values[row] for row in labelled], np.int64)
    invalid = labelled[(labels < 0) | (labels >= len(classes))]
    if len(invalid):
        raise UserError(
            f"{printable(rows.name(int(invalid[0])))} has the label {values[invalid[0]]}, expected 0 to "
            f"{len(classes) - 1}: fetch or write it again"
        )
    return classes, labels


def _published_splits(
    rows: ArrowImages, labelled: NDArray[np.int64]
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """The indices of each split among the labelled rows, and notes.

    Rows without a label belong to no split.
    """
    splits: dict[str, NDArray[np.int64]] = {}
    notes = []
    for published, start, end in zip(rows.splits, rows.starts[:-1], rows.starts[1:], strict=True):
        split = SPLIT_NAMES.get(published.lower(), printable(published))
        if split in splits:
            raise UserError(
                f"{printable(rows.source)} has two splits for {split}, of "
                f"{printable(', '.join(rows.splits))}: expected one"
            )
        splits[split] = np.flatnonzero((labelled >= start) & (labelled < end))
        num_unlabelled = int(end - start) - len(splits[split])
        if num_unlabelled:
            origin = f" of {printable(published)}" if published else ""
            notes.append(f"{num_unlabelled:,} images{origin} have no label and are left out")
        if split != printable(published):
            notes.append(f"{printable(published)} was taken as the {split} split")
    return {split: indices for split, indices in splits.items() if split and len(indices)}, tuple(notes)


def _scan(rows: ArrowImages) -> ScannedRows:
    """Read all rows once."""
    hashes = bytearray()
    all_grayscale = True
    for index in track(range(len(rows)), len(rows), "reading images once"):
        data = b""
        try:
            data = rows.content(index)
            all_grayscale = all_grayscale and decode.is_grayscale(EncodedImage(data, ""))
        except UnreadableImage:
            pass  # its colours are unknown
        hashes += content_hash(data or f"unreadable {index}".encode())
    return ScannedRows(bytes(hashes), all_grayscale)
