"""Weights by name: of the Hugging Face Hub (`hf:REPO[@REVISION]`) and of torchvision (`torchvision:NAME`).

Nothing is fetched unless a user names it so; what was fetched stays in the user's cache.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convatlas.errors import UsageError
from convatlas.interop.hub_config import WeightsConfig
from convatlas.interop.hub_weights import fetch_repository
from convatlas.interop.torchvision_weights import ADDRESS, fetch_weights, find_weights

PREFIXES = ("hf:", "torchvision:")


@dataclass(frozen=True)
class RemoteWeights:
    """A file that was fetched, its name for the user, what its library says of it, and its origin."""

    file: Path
    name: str
    config: WeightsConfig | None
    provenance: dict[str, Any] = field(default_factory=dict)


def is_remote(name: str) -> bool:
    return name.startswith(PREFIXES)


def fetch_remote(name: str) -> RemoteWeights:
    """The file that `name` stands for, from the cache or the network. Raises UsageError for a name that does
    not exist, UserError for a file that cannot be fetched or is not the published one."""
    kind, _, path = name.partition(":")
    if not path:
        raise UsageError(
            f"{name} names no weights: expected hf:REPO[@REVISION] or torchvision:NAME, such as "
            "torchvision:resnet50"
        )
    if kind == "hf":
        repository = fetch_repository(path)
        return RemoteWeights(
            repository.file,
            f"hf:{repository.name}",
            repository.config,
            {"repository": repository.name, "revision": repository.commit, "file": repository.file.name},
        )
    full_name, weights = find_weights(path)
    file, _ = fetch_weights(weights)
    config = WeightsConfig(
        f"torchvision:{full_name}", input_size=weights.input_size, resize_size=weights.resize_size
    )
    return RemoteWeights(file, f"torchvision:{full_name}", config, {"address": ADDRESS + weights.file})
