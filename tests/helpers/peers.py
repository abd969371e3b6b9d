"""Other libraries, installed in the folder `.peers` by `make peers`."""

from typing import Any

import pytest

from convatlas.benchmark import peers


def import_or_skip(name: str) -> Any:
    """Import torchvision, timm or pytorchcv; skip the test, visibly, if they are not installed."""
    if not peers.is_installed(name):
        pytest.skip(f"{name} is not in .peers: make peers")
    return peers.import_peer(name)
