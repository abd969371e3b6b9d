"""Data sets of the Hugging Face Hub, and local folders of the same kinds, as the library `datasets` loads them.

It brings a set into Arrow files, a row a sample. Those are mapped into memory and read by row here: a loader's process needs neither
the library nor memory for the set, and images are decoded as all others are. No program that comes with a set is run.
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
from convatlas.data.images.decode import EncodedImage, UnreadableImage
from convatlas.data.sources.arrow import ArrowImages, file_stamp, first_line, require_inside
from convatlas.data.sources.content_hash import LENGTH, content_hash
from convatlas.data.sources.labels import encode_labels, validate_class_name
from convatlas.data.sources.source import SPLIT_NAMES, RawDataset
from convatlas.errors import UserError, printable
from convatlas.runtime.progress import track
from convatlas.storage.cache import cached

FORMAT = 1  # of what is remembered
PREFERRED = ("label", "fine_label")  # where several columns hold classes
PLAIN = ("label", "class")  # columns that may hold classes as text or whole numbers, without a list of their names
ADVICE = "expected one: keep it with select_columns, and save that with save_to_disk"


class ScannedRows(msgspec.Struct, frozen=True):
    content_hashes: bytes  # fingerprints of the images, one after the other
    all_grayscale: bool  # whether every image is, that can be read


def open_huggingface(where: str) -> RawDataset:
    """NAME or NAME:CONFIG of the Hub, or a folder. Raises UserError for what is missing, out of reach, or no set of labelled images."""
    source = f"hf:{where}"
    splits, roots = _load(where, source)
    if not any(map(len, splits.values())):
        raise UserError(f"{printable(source)} has no rows: expected images and their classes")
    features = next(iter(splits.values())).features
    if any(split.features != features for split in splits.values()):
        raise UserError(f"{printable(source)} has other columns in some of its splits {printable(', '.join(splits))}: expected the same")
    image, label = _columns(features, source)
    files = [require_inside(Path(file["filename"]), roots, source) for split in splits.values() for file in split.cache_files]
    starts = np.cumsum([0, *map(len, splits.values())], dtype=np.int64)
    rows = ArrowImages(source, list(splits), starts, files, [file_stamp(file) for file in files], image, roots)

    values = [value for chunk in rows.column(label) for value in chunk.to_pylist()]
    if len(values) != len(rows):
        raise UserError(f"{printable(source)} is damaged: it has {len(values):,} rows, not {len(rows):,}: fetch or write it again")
    labelled = np.flatnonzero([value not in (None, "", -1) for value in values])
    if names := getattr(features[label], "names", None):
        classes, labels = tuple(validate_class_name(name, source) for name in names), np.array([values[row] for row in labelled], np.int64)
        wrong = labelled[(labels < 0) | (labels >= len(classes))]
        if len(wrong):
            where = printable(rows.name(int(wrong[0])))
            raise UserError(f"{where} has the label {values[wrong[0]]}, expected 0 to {len(classes) - 1}: fetch or write it again")
    else:
        classes, labels = encode_labels(validate_class_name(str(values[row]), rows.name(int(row))) for row in labelled)
    parts, notes = _splits(rows, labelled)
    known_by = [FORMAT, *(number for numbers in rows.stamps for number in numbers)]
    read = cached("hub", repr((image, files)), known_by, ScannedRows, lambda: _scan(rows))
    return RawDataset(
        name=source,
        classes=classes,
        channels=1 if read.all_grayscale else 3,
        images=rows if len(labelled) == len(rows) else Subset(rows, labelled),
        labels=labels,
        content_hashes=[read.content_hashes[row * LENGTH : (row + 1) * LENGTH] for row in labelled.tolist()],
        splits=parts,
        notes=notes,
        root=Path(os.path.commonpath([file.parent for file in files])),
    )


def _load(where: str, source: str) -> tuple[dict[str, Any], list[Path]]:
    """The splits as the library has them, and the folders where their files may lie."""
    for setting, value in (("HF_HUB_DISABLE_TELEMETRY", "1"), ("HF_UPDATE_DOWNLOAD_COUNTS", "0")):
        os.environ.setdefault(setting, value)  # it looks at them when it is imported
    try:
        import datasets
        import huggingface_hub as hub
    except ModuleNotFoundError:
        raise UserError("hf: needs the library datasets, which is not installed: pip install 'convatlas[hf]'") from None
    for library in (datasets, hub):
        library.logging.set_verbosity(library.logging.CRITICAL)  # errors are said here, in one sentence
        if not sys.stderr.isatty():
            library.utils.disable_progress_bars()

    whole = os.path.exists(os.path.expanduser(where))  # a folder's name may hold a colon
    name, _, config = (where, "", "") if whole else where.partition(":")
    folder = Path(os.path.abspath(os.path.expanduser(name)))
    caches = [Path(os.path.abspath(cache)) for cache in (datasets.config.HF_DATASETS_CACHE, hub.constants.HF_HUB_CACHE)]
    roots = [folder, folder.resolve(), *caches] if folder.is_dir() else caches
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            if config:
                raise ValueError("what save_to_disk wrote has no configurations")
            loaded = datasets.load_from_disk(str(folder), keep_in_memory=False)
        elif not folder.is_dir() and hasattr(datasets.packaged_modules, name):
            raise FileNotFoundError(f"{name} is a format, by which it would read whatever lies here")
        else:
            loaded = datasets.load_dataset(str(folder) if folder.is_dir() else name, config or None, keep_in_memory=False)
    except Exception as error:  # the library lets through whatever its own libraries raise
        raise UserError(f"{printable(source)} {_reason(error, name, config)}") from None
    return dict(loaded) if isinstance(loaded, Mapping) else {"": loaded}, roots


def _reason(error: Exception, name: str, config: str) -> str:
    if known := re.search(r"[Aa]vailable(?: configs)?: \[(.*?)\]", str(error)):
        wrong = f"has no configuration {printable(config)!r}" if config else "has several configurations"
        return f"{wrong}: expected hf:{printable(name)}:CONFIG with one of {printable(known[1])}"
    if "scripts are no longer supported" in str(error):
        return "comes as a program, which is never run: look for a copy of it that holds its images in files, such as parquet"
    if isinstance(error, ConnectionError):
        return "is no folder here, and not in the cache, and the Hugging Face Hub cannot be reached: go online once, or bring a copy here"
    if isinstance(error, FileNotFoundError):
        return f"cannot be read ({first_line(error)}): expected a data set of the Hub, such as hf:ylecun/mnist, or a folder of one"
    return f"cannot be loaded ({first_line(error.__cause__ or error)}): expected what the library datasets can load"


def _columns(features: Mapping[str, Any], source: str) -> tuple[str, str]:
    """That of the images, and that of their classes."""
    import datasets

    every = f"among {', '.join(features)}"
    pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(pictures) != 1:
        found = f"several columns of images, {', '.join(pictures)}" if pictures else f"no column of images {every}"
        raise UserError(f"{printable(source)} has {printable(found)}: {ADVICE if pictures else 'expected one'}")
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    preferred = [name for name in PREFERRED if name in labels]
    if len(labels) > 1 and not preferred:
        raise UserError(f"{printable(source)} has several columns of classes, {printable(', '.join(labels))}: {ADVICE}")
    plain = [name for name in PLAIN if re.fullmatch(r"(large_)?string|u?int\d+", str(getattr(features.get(name), "dtype", "")))]
    usable = preferred or labels or plain
    if not usable:
        what = f"a ClassLabel, or text or whole numbers named {' or '.join(PLAIN)}"
        raise UserError(f"{printable(source)} has no column of classes {printable(every)}: expected one, {what}")
    return pictures[0], usable[0]


def _splits(rows: ArrowImages, labelled: NDArray[np.int64]) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Where each split is among the labelled rows; what has no label is nothing to train on, nor to measure."""
    parts: dict[str, NDArray[np.int64]] = {}
    notes = []
    for split, start, end in zip(rows.splits, rows.starts[:-1], rows.starts[1:], strict=True):
        part = SPLIT_NAMES.get(split.lower(), printable(split))
        if part in parts:
            raise UserError(f"{printable(rows.source)} has two splits for {part}, of {printable(', '.join(rows.splits))}: expected one")
        parts[part] = np.flatnonzero((labelled >= start) & (labelled < end))
        if lacking := int(end - start) - len(parts[part]):
            notes.append(f"{lacking:,} images{' of ' if split else ''}{printable(split)} have no label and are left out")
        if part != printable(split):
            notes.append(f"{printable(split)} was taken as the {part} split")
    return {part: indices for part, indices in parts.items() if part and len(indices)}, tuple(notes)


def _scan(rows: ArrowImages) -> ScannedRows:
    """Through all rows once."""
    keys, grey = bytearray(), True
    for index in track(range(len(rows)), len(rows), "reading images once"):
        data = b""
        try:
            data = rows.content(index)
            grey = grey and decode.is_grayscale(EncodedImage(data, ""))
        except UnreadableImage:
            pass  # says nothing of colours
        keys += content_hash(data or f"unreadable {index}".encode())
    return ScannedRows(bytes(keys), grey)
