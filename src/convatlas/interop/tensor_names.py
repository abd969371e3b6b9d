"""Which networks of the atlas have tensors of these names, under each library's names: an index that ships
with the package.

Names do not depend on the width, the classes or the channels of a network, so one look finds the few networks
whose shapes are worth comparing. `scripts/tensor_names.py` writes the index.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import torch

from convatlas import models
from convatlas.interop.state_dict_match import SOURCES, rename_fn
from convatlas.models import Argument, Network

LIBRARIES = (*SOURCES, "convatlas")
INDEX = "tensor_names.json"


class Variant(NamedTuple):
    """A network of the atlas under the tensor names of a library. `arguments` are those that differ from the
    edition's defaults."""

    library: str
    name: str
    edition: str
    arguments: Mapping[str, Argument]


def networks_with(names: Iterable[str]) -> list[Variant]:
    """The networks, and the libraries whose names for their tensors these are; [] if there are none."""
    return _index().get(_names_hash(names), [])


def variants(name: str, library: str) -> Iterator[Variant]:
    """Each edition of a network that `library` has, with every choice of the arguments that change the
    tensors' names."""
    for edition in models.editions(name):
        if library != "convatlas":
            mapping = SOURCES[library].get(name)
            if mapping is None or edition not in mapping.editions:
                continue
        defaults = models.get_entry(name).default_arguments(edition)
        if "aux" in defaults:
            choices: list[dict[str, Argument]] = [{"aux": True}, {"aux": False}]
        elif name.startswith("resnet") and defaults.get("shortcut") == "A":
            # the paper's choice for CIFAR has no tensors; other libraries' networks have projections
            choices = [{"shortcut": "A"}, {"shortcut": "B"}]
        else:
            choices = [{}]
        yield from (Variant(library, name, edition, arguments) for arguments in choices)


def all_variants(name: str) -> list[Variant]:
    """All variants of a network; [] for one that does not classify images."""
    if models.get_entry(name).task != "classification":
        return []
    return [variant for library in LIBRARIES for variant in variants(name, library)]


def build_index(names: Iterable[str]) -> dict[str, list[Variant]]:
    """The variants of these networks by the hash of their tensors' names; takes a few seconds for all."""
    index: dict[str, list[Variant]] = {}
    for name in names:
        builds: dict[str, Network] = {}  # shared by the libraries
        for variant in all_variants(name):
            build = f"{variant.edition} {variant.arguments}"
            if build not in builds:
                with torch.device("meta"):
                    builds[build] = models.create_model(name, edition=variant.edition, **variant.arguments)
            network = builds[build]
            assert network.architecture is not None
            rename = rename_fn(variant.library, network.architecture)
            assert rename is not None
            tensor_names = [rename(key, network) for key in network.state_dict()]
            index.setdefault(_names_hash(tensor_names), []).append(variant)
    return index


def read_index() -> dict[str, list[Variant]]:
    """The index that ships with the package."""
    document = json.loads(files(__package__).joinpath(INDEX).read_text(encoding="utf-8"))
    return {key: [Variant(*row) for row in rows] for key, rows in document.items()}


@cache
def _index() -> dict[str, list[Variant]]:
    return read_index()


def _names_hash(names: Iterable[str]) -> str:
    """A hash of the set of names, without batch norm's counters, which older files lack."""
    significant = sorted(name for name in names if not name.endswith("num_batches_tracked"))
    return hashlib.sha256("\n".join(significant).encode(errors="surrogateescape")).hexdigest()[:16]
