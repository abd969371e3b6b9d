"""Real images: where they are, how they are read, what is drawn at random, how they become batches."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from convatlas.data.dataset import Dataset as Dataset
from convatlas.data.dataset import Split as Split
from convatlas.data.sources.source import RawDataset, prepare
from convatlas.errors import UsageError, unknown_name


def open_dataset(name: str, quarantined: Sequence[str] | None = None) -> Dataset:
    """A data set by the name that users type: `fashion-mnist`, `mnist`, `cifar10`, `cifar100`, `digits`, or a source: `folder:PATH`.

    `quarantined` are the hashes of broken samples to leave out; None takes those on the data set's own list.
    Raises UsageError for an unknown name, UserError for files that are missing or damaged, or cannot be trained on.
    """
    return prepare(open_source(name), quarantined)


def open_source(name: str) -> RawDataset:
    """What a data set's source holds, before it is split. Raises as `open_dataset`."""
    from convatlas.data.sources import huggingface, image_folder, imagenet, manifest, packed, webdataset
    from convatlas.data.sources.builtin import BUILTIN

    sources: dict[str, Callable[[str], RawDataset]] = {
        "folder": lambda where: image_folder.open_image_folder(Path(where).expanduser()),
        "manifest": lambda where: manifest.open_manifest(Path(where).expanduser()),
        "imagenet": lambda where: imagenet.open_imagenet(Path(where).expanduser()),
        "packed": lambda where: packed.open_packed(Path(where).expanduser()),
        "tar": lambda where: webdataset.open_webdataset(os.path.expanduser(where)),
        "hf": huggingface.open_huggingface,
    }
    kind, colon, where = name.partition(":")
    if colon and kind in sources:
        if not where:
            raise UsageError(f"--data {kind}: lacks its path: expected {kind}:PATH")
        return sources[kind](where)
    if name not in BUILTIN:
        raise unknown_name("data set", name, [*BUILTIN, *(f"{source}:PATH" for source in sources)])
    return BUILTIN[name]()
