"""A folder of images with the boxes of their objects: PATH/{train,val,test}/boxes.json in COCO's format, or
PATH/boxes.json; or PASCAL VOC's layout, with its splits in ImageSets/Main."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from convatlas.data.sources.box_annotations import AnnotatedImages, OnBad
from convatlas.data.sources.coco_boxes import read_coco
from convatlas.data.sources.source import ALL
from convatlas.data.sources.split_names import split_name
from convatlas.data.sources.voc_boxes import read_voc
from convatlas.errors import UsageError, UserError, printable, wrong_type
from convatlas.names import encodable, resolve_path

FILE_NAME = "boxes.json"
SPLITS = ("train", "val", "test")
EXPECTED = (
    "expected PATH/train/boxes.json, and val and test, in COCO's format beside the images, or the "
    "Annotations and JPEGImages of PASCAL VOC"
)
HINT = "its boxes are for ca.boxes.train_detector, as in examples/boxes.py"


@dataclass(frozen=True)
class BoxDataset:
    """Annotated images by split, `all` where there are none. Labels are indices into `classes`, which are
    those of all splits: first train's, in their order."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, AnnotatedImages]


def open_boxes(name: str, on_bad: OnBad = "error") -> BoxDataset:
    """The boxes of `folder:PATH`. A bad annotation is an error or (`on_bad="skip"`) its image is left out and
    listed.

    Raises UsageError for another name, UserError for a folder without boxes, for files that are damaged, and
    where no image of a split is left.
    """
    if not isinstance(name, str):
        raise wrong_type("data", name, "a data set's name, such as folder:PATH")
    kind, _, path = name.partition(":")
    if kind != "folder" or not path:
        raise UsageError(f"boxes are read from folder:PATH, not from {printable(name)}: {EXPECTED}")
    return open_box_folder(Path(resolve_path(path)).expanduser(), on_bad)


def open_box_folder(path: Path, on_bad: OnBad = "error") -> BoxDataset:
    """Raises as `open_boxes`."""
    readers = _readers(path)
    if not readers:
        raise UserError(f"{printable(path)} holds no boxes: {EXPECTED}")
    splits = {split: read(on_bad=on_bad) for split, read in readers.items()}
    classes = tuple(dict.fromkeys(name for split in splits.values() for name in split.classes))
    relabeled = {split: _relabel(images, classes) for split, images in splits.items()}
    return BoxDataset(encodable(f"folder:{path}"), classes, relabeled)


def is_box_folder(path: Path) -> bool:
    """Whether a folder, or one of its splits, holds boxes."""
    return bool(_readers(path))


def is_voc_folder(path: Path) -> bool:
    """Whether a folder has PASCAL VOC's layout."""
    return (path / "Annotations").is_dir() and (path / "JPEGImages").is_dir()


def _readers(path: Path) -> dict[str, Callable[..., AnnotatedImages]]:
    """What reads each split, the usual order first. Raises UserError for two folders of one split."""
    if is_voc_folder(path):
        lists = path / "ImageSets" / "Main"
        listed = [split for split in SPLITS if (lists / f"{split}.txt").is_file()]
        return {split: partial(read_voc, path, split) for split in listed} or {ALL: partial(read_voc, path)}
    try:
        names = sorted(entry.name for entry in path.iterdir() if (entry / FILE_NAME).is_file())
    except OSError:
        return {}
    folders: dict[str, str] = {}
    for name in names:
        split = split_name(name)
        if split in folders:
            raise UserError(
                f"{printable(path)} holds {printable(folders[split])} and {printable(name)}, which are "
                f"both the {split} split: put all of their images into one of them"
            )
        if split:
            folders[split] = name
    if folders:
        usual = [split for split in SPLITS if split in folders]
        return {split: partial(read_coco, path / folders[split] / FILE_NAME) for split in usual}
    return {ALL: partial(read_coco, path / FILE_NAME)} if (path / FILE_NAME).is_file() else {}


def _relabel(images: AnnotatedImages, classes: tuple[str, ...]) -> AnnotatedImages:
    """The same images with labels that are indices into `classes`."""
    indices = np.array([classes.index(name) for name in images.classes], np.int64)
    relabeled = (replace(image, labels=indices[image.labels]) for image in images.images)
    return replace(images, images=tuple(relabeled), classes=classes)
