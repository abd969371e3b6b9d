"""Real images: their sources, decoding, random transforms and batches."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from convatlas.data.dataset import Dataset as Dataset
from convatlas.data.dataset import Split as Split
from convatlas.data.sources.prepare import prepare, prepare_evaluation
from convatlas.data.sources.source import ALL, Conflicts, RawDataset
from convatlas.errors import UsageError, UserError, printable, unknown_name, wrong_type
from convatlas.names import resolve_path


def open_dataset(
    name: str, quarantined: Sequence[str] | None = None, conflicts: Conflicts = "drop"
) -> Dataset:
    """A data set by its name: `fashion-mnist`, `mnist`, `cifar10`, `cifar100`, `digits`, or a source:
    `folder:PATH`.

    `quarantined` are the content hashes of broken samples to leave out; None takes those on the data set's
    own list. `conflicts`: samples with the same content and different classes are left out, or an error.

    Raises UsageError for an unknown name, UserError for files that are missing or damaged, and for a data set
    that cannot be trained on.
    """
    return prepare(open_source(name), quarantined, conflicts)


def open_evaluation_dataset(name: str, as_trained: bool = False) -> Dataset:
    """A data set for evaluation only, which need not have train images: its published splits, and `all`.

    as_trained: also the splits that a training holds out of this data, if one can still use it. Raises errors
    like `open_dataset`, except that any source with a sample can be evaluated on.
    """
    source = open_source(name)
    dataset = prepare_evaluation(source)
    if as_trained:
        try:
            trained = prepare(source)
        except UserError:  # its training images are gone
            return dataset
        return replace(trained, splits=trained.splits | {ALL: dataset.splits[ALL]})
    return dataset


def open_source(name: str) -> RawDataset:
    """The content of a data set, before it is split. Raises errors like `open_dataset`."""
    from convatlas.data.sources import huggingface, imagenet, manifest, packed, webdataset
    from convatlas.data.sources.builtin import BUILTIN

    sources: dict[str, Callable[[str], RawDataset]] = {
        "folder": lambda path: _open_folder(Path(path).expanduser()),
        "manifest": lambda path: manifest.open_manifest(Path(path).expanduser()),
        "imagenet": lambda path: imagenet.open_imagenet(Path(path).expanduser()),
        "packed": lambda path: packed.open_packed(Path(path).expanduser()),
        "tar": lambda pattern: webdataset.open_webdataset(os.path.expanduser(pattern)),
        "hf": huggingface.open_huggingface,
    }
    if not isinstance(name, str):
        raise wrong_type("data", name, "a data set's name, such as folder:PATH")
    kind, colon, path = name.partition(":")
    if colon and kind in sources:
        if not path:
            raise UsageError(f"--data {kind}: lacks its path: expected {kind}:PATH")
        return sources[kind](resolve_path(path))
    if name not in BUILTIN:
        raise unknown_name("data set", name, [*BUILTIN, *(f"{kind}:PATH" for kind in sources)])
    return BUILTIN[name]()


def _open_folder(path: Path) -> RawDataset:
    from convatlas.data.sources import box_folder, image_folder, mask_folder

    if mask_folder.is_mask_folder(path):
        return mask_folder.open_mask_folder(path)
    if box_folder.is_voc_folder(path):
        raise UserError(f"{printable(path)} has PASCAL VOC's layout: {box_folder.HINT}")
    source = image_folder.open_image_folder(path)
    return replace(source, hint=box_folder.HINT) if box_folder.is_box_folder(path) else source
