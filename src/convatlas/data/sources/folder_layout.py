"""The layout of a folder of images: which of its folders are splits, and which are classes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from convatlas.data.sources.passed_over import NO_CLASS, PassedOver
from convatlas.data.sources.split_names import looks_like_split, split_name
from convatlas.data.sources.walk import PROGRAM_FOLDERS, list_images
from convatlas.errors import UserError, printable

MAX_NAMES = 8  # folders that a message names
EXPECTED = (
    "PATH/class/image or PATH/train/class/image (networks that label pixels: PATH/train/images and "
    "PATH/train/masks)"
)


class FolderLayout(NamedTuple):
    """The images of a folder, by split and then by the folder of their class; names relative to the folder.

    The only split of a folder without splits is ''.
    """

    images: dict[str, dict[str, list[str]]]
    passed_over: list[PassedOver]
    notes: list[str]
    hint: str = ""  # what to do if there are too few classes


def find_layout(path: Path) -> FolderLayout:
    """Raises UserError for a folder whose splits and classes cannot be told apart."""
    folders = _folder_names(path)
    splits = [name for name in folders if split_name(name)]
    if splits:
        images, passed_over = list_images(path, splits)
        if any("/" in name for name in images):
            others = [name for name in folders if name not in splits]
            return _layout_of_splits(path, images, passed_over, splits, others)
    images, passed_over = list_images(path)
    classes, unclassified = _by_folder(images, "")
    notes = []
    named_like_splits = [name for name in classes if looks_like_split(name)]
    if named_like_splits and len(named_like_splits) == len(classes):
        raise UserError(
            f"{printable(path)} holds {_list(named_like_splits)}, which look like splits and not like "
            "classes: rename them to train, val and test"
        )
    if named_like_splits:
        notes.append(f"taken as classes, although they look like splits: {_list(named_like_splits)}")
    if len(classes) == 1 and (inner := _only_folder_of_splits(path, *classes)):
        return inner
    if unclassified and not classes:
        raise UserError(
            f"{printable(path)} holds {len(unclassified):,} images and no folders of classes: expected "
            f"{EXPECTED}, or a list of labels, manifest:FILE"
        )
    hint = _hint(path, *next(iter(classes.items()))) if len(classes) == 1 else f"expected {EXPECTED}"
    return FolderLayout({"": classes}, passed_over + _without_class(unclassified), notes, hint)


def _layout_of_splits(
    path: Path,
    images: Sequence[str],
    passed_over: list[PassedOver],
    folders: Sequence[str],
    others: Sequence[str],
) -> FolderLayout:
    by_split: dict[str, dict[str, list[str]]] = {}
    split_folders: dict[str, str] = {}
    notes = []
    outside = [name for name in images if "/" not in name]
    flat = []
    for folder in folders:
        split = split_name(folder)
        assert split is not None
        classes, unclassified, prefix = _classes_of_split(images, folder)
        outside += unclassified
        if not classes:
            flat += [folder] if unclassified else []
            continue
        if split in by_split:
            raise UserError(
                f"{printable(path)} holds {printable(split_folders[split])} and {printable(folder)}, which "
                f"are both the {split} split: put all of their images into one of them"
            )
        by_split[split] = classes
        split_folders[split] = folder
        if prefix != split:
            notes.append(f"{prefix} was taken as the {split} split")
    if flat and not by_split:
        raise UserError(
            f"{printable(path)} holds images directly in "
            f"{_list(flat)}{f', beside {_list(others)}' if others else ''}: expected a folder for each class "
            f"in a split, such as {printable(flat[0])}/cat/1.jpg (if {printable(flat[0])} is a class itself, "
            "put the folders of all classes into a folder train), or a list of labels, manifest:FILE"
        )
    if len(by_split) == 1 and (classes_beside := _folders_with_images(path, others)):
        (folder,) = split_folders.values()
        raise UserError(
            f"{printable(path)} holds {printable(folder)}, which is named like a split, beside "
            f"{_list(classes_beside)}: put the folders of classes into a folder train, or rename "
            f"{printable(folder)} if it is a class"
        )
    return FolderLayout(by_split, passed_over + _without_class(outside), notes, f"expected {EXPECTED}")


def _classes_of_split(images: Sequence[str], folder: str) -> tuple[dict[str, list[str]], list[str], str]:
    """The images of each class in a split's folder, those of no class, and the folder that holds the classes.

    Some archives unpack into a folder of the same name: training_set/training_set/class/image.
    """
    classes, unclassified = _by_folder(images, folder)
    if len(classes) == 1 and not unclassified:
        (inner,) = classes
        if split_name(inner) == split_name(folder):
            prefix = f"{folder}/{inner}"
            return *_by_folder(images, prefix), prefix
    return classes, unclassified, folder


def _by_folder(images: Sequence[str], folder: str) -> tuple[dict[str, list[str]], list[str]]:
    """The images below each folder in `folder`, in the order of the folders' names; those directly in it."""
    prefix = f"{folder}/" if folder else ""
    by_folder: dict[str, list[str]] = {}
    direct = []
    for name in images:
        if not name.startswith(prefix):
            continue
        subfolder, slash, _ = name[len(prefix) :].partition("/")
        if slash:
            by_folder.setdefault(subfolder, []).append(name)
        else:
            direct.append(name)
    return dict(sorted(by_folder.items())), direct


def _only_folder_of_splits(path: Path, folder: str) -> FolderLayout | None:
    """The layout of the only folder in a folder, if that holds splits."""
    if not any(split_name(name) for name in _folder_names(path / folder)):
        return None
    images, passed_over, notes, hint = find_layout(path / folder)
    names = {
        split: {label: [f"{folder}/{name}" for name in files] for label, files in classes.items()}
        for split, classes in images.items()
    }
    inner = [entry._replace(name=f"{folder}/{entry.name}") for entry in passed_over]
    outer = [entry for entry in list_images(path, []).passed_over if entry.name != folder]
    return FolderLayout(names, outer + inner, [f"the splits in {folder} were taken", *notes], hint)


def _hint(path: Path, folder: str, images: Sequence[str]) -> str:
    """What to do about a folder with a single folder of images."""
    inner, _ = _by_folder(images, folder)
    if len(inner) < 2:
        return f"expected {EXPECTED}"
    return f"if the folders in it are classes, {_list(list(inner))}, use folder:{printable(path / folder)}"


def _without_class(names: Sequence[str]) -> list[PassedOver]:
    return [PassedOver(name, NO_CLASS) for name in names]


def _folder_names(path: Path) -> list[str]:
    """The folders in a folder, sorted. Raises UserError if it cannot be read."""
    try:
        with os.scandir(path) as scan:
            entries = [entry.name for entry in scan if not entry.name.startswith(".") and _is_dir(entry)]
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read: {error.strerror}") from None
    return sorted(set(entries) - PROGRAM_FOLDERS)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _folders_with_images(path: Path, folders: Sequence[str]) -> list[str]:
    images = list_images(path, folders).images if folders else []
    return sorted({name.partition("/")[0] for name in images if "/" in name})


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return printable(", ".join(names[:MAX_NAMES])) + more
