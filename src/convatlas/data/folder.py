"""A folder of photographs: PATH/class/image, or PATH/{train,val,test}/class/image. Classes are the folders' names."""

import hashlib
from pathlib import Path

import numpy as np

from convatlas.data.dataset import Dataset, Files, Split, hold_out
from convatlas.data.images import EXTENSIONS, UnreadableImage, is_grey
from convatlas.errors import UserError, printable

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test"}


def read(path: Path, size: tuple[int, int], channels: int | None = None) -> Dataset:
    """The data set in a folder, its images brought to `size`. Without splits 80/10/10, with train and test alone a tenth of train
    for validation: stratified by class, by content hash, the same for every seed. Raises UserError before anything is trained."""
    if not path.is_dir():
        raise UserError(f"{printable(path)} is not a folder: expected PATH/class/image or PATH/train/class/image")
    named = {_SPLITS[d.name.lower()]: d for d in sorted(path.iterdir()) if d.is_dir() and d.name.lower() in _SPLITS}
    if named and "train" not in named:
        raise UserError(f"{printable(path)} has {', '.join(d.name for d in named.values())} but no train folder")
    roots = named or {"all": path}
    listed = {part: _classes(root) for part, root in roots.items()}
    classes = tuple(sorted(set().union(*(found for found in listed.values()))))
    for part, found in listed.items():
        lacking = [name for name in classes if not found.get(name)]
        if lacking:
            raise UserError(
                f"{printable(roots[part])} has no images of class {printable(lacking[0])}: add some, or remove the class elsewhere"
            )
    if len(classes) < 2:
        raise UserError(f"{printable(path)} should hold at least 2 folders with images, one a class; found {len(classes)}")
    samples = {part: [(file, label) for label, name in enumerate(classes) for file in found[name]] for part, found in listed.items()}
    everything = [file for part in samples.values() for file, _ in part]
    hashes = {file: _digest(file) for file in everything}
    channels = channels or (1 if all(_grey_or_broken(file) for file in everything) else 3)
    notes = [f"{roots[part].name} was taken as the {part} split" for part in named if roots[part].name != part]

    if "all" in samples or "val" not in samples or "test" not in samples:
        source = samples.pop("all", None) or samples["train"]
        wanted = [part for part in ("val", "test") if part not in samples]
        parts = hold_out(np.array([label for _, label in source]), [hashes[file] for file, _ in source], [0.1] * len(wanted))
        for part, indices in zip([*wanted, "train"], parts, strict=True):
            samples[part] = [source[i] for i in indices]
            if len({label for _, label in samples[part]}) < len(classes):
                raise UserError(
                    f"{printable(path)} is too small to split: every class needs at least 5 images for {part} to hold each class"
                )
        notes.append(
            f"{' and '.join(wanted)} were split off by content: " + ", ".join(f"{len(samples[p]):,} {p}" for p in ("train", *wanted))
        )

    digest = hashlib.sha256(repr((classes, channels, size)).encode())
    for part in ("train", "val", "test"):
        digest.update(part.encode())
        for file, label in samples[part]:
            digest.update(hashes[file] + label.to_bytes(4, "big"))
    splits = {
        part: Split(Files(tuple(f for f, _ in samples[part]), channels, size), np.array([label for _, label in samples[part]], np.int64))
        for part in ("train", "val", "test")
    }
    return Dataset(f"folder:{path}", classes, channels, size, splits, digest.hexdigest(), notes=tuple(notes))


def _classes(root: Path) -> dict[str, list[Path]]:
    folders = sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    found = {d.name: sorted(f for f in d.rglob("*") if f.suffix.lower() in EXTENSIONS and f.is_file()) for d in folders}
    return {name: files for name, files in found.items() if files}


def _digest(file: Path) -> bytes:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def _grey_or_broken(file: Path) -> bool:
    try:
        return is_grey(file)
    except UnreadableImage:
        return True
