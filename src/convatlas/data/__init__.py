"""Real images: their sources, decoding, random transforms and batches."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from convatlas.data.dataset import Dataset as Dataset
from convatlas.data.dataset import Split as Split
from convatlas.data.sources.source import RawDataset, prepare
from convatlas.errors import UsageError, unknown_name
from convatlas.names import resolve_path


def open_dataset(name: str, quarantined: Sequence[str] | None = None) -> Dataset:
    """A data set by its name: `fashion-mnist`, `mnist`, `cifar10`, `cifar100`, `digits`, or a source:
    `folder:PATH`.

    `quarantined` are the content hashes of broken samples to leave out; None takes those on the data set's
    own list. Raises UsageError for an unknown name, UserError for files that are missing or damaged, and for
    a data set that cannot be trained on.
    """
    return prepare(open_source(name), quarantined)


def open_source(name: str) -> RawDataset:
    """The content of a data set, before it is split. Raises errors like `open_dataset`."""
    from convatlas.data.sources import huggingface, image_folder, imagenet, manifest, packed, webdataset
    from convatlas.data.sources.builtin import BUILTIN

    sources: dict[str, Callable[[str], RawDataset]] = {
        "folder": lambda path: image_folder.open_image_folder(Path(path).expanduser()),
        "manifest": lambda path: manifest.open_manifest(Path(path).expanduser()),
        "imagenet": lambda path: imagenet.open_imagenet(Path(path).expanduser()),
        "packed": lambda path: packed.open_packed(Path(path).expanduser()),
        "tar": lambda pattern: webdataset.open_webdataset(os.path.expanduser(pattern)),
        "hf": huggingface.open_huggingface,
    }
    kind, colon, path = name.partition(":")
    if colon and kind in sources:
        if not path:
            raise UsageError(f"--data {kind}: lacks its path: expected {kind}:PATH")
        return sources[kind](resolve_path(path))
    if name not in BUILTIN:
        raise unknown_name("data set", name, [*BUILTIN, *(f"{kind}:PATH" for kind in sources)])
    return BUILTIN[name]()
