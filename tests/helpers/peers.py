"""Other libraries, installed in the folder `.peers` by `make peers`, and their networks."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from convatlas.benchmark import peers


def import_or_skip(name: str) -> Any:
    """Import torchvision, timm or pytorchcv; skip the test, visibly, if they are not installed."""
    if not peers.is_installed(name):
        pytest.skip(f"{name} is not in .peers: make peers")
    return peers.import_peer(name)


Build = Callable[[], nn.Module]


def torchvision(name: str, **arguments: Any) -> Build:
    return lambda: import_or_skip("torchvision").models.get_model(name, weights=None, **arguments)


def timm(name: str, **arguments: Any) -> Build:
    return lambda: import_or_skip("timm").create_model(name, **arguments)


def pytorchcv(name: str, **arguments: Any) -> Build:
    def build() -> nn.Module:
        import_or_skip("pytorchcv")
        model_provider = importlib.import_module("pytorchcv.model_provider")
        network: nn.Module = model_provider.get_model(name, **arguments)
        return network

    return build
