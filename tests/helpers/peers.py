"""The other libraries, from the folder `.peers` (`make peers`)."""

from typing import Any

import pytest

from convatlas.benchmark import peers


def peer(name: str) -> Any:
    """torchvision, timm or pytorchcv; skips the test visibly where they are not installed."""
    if not peers.is_installed(name):
        pytest.skip(f"{name} is not in .peers: make peers")
    return peers.import_peer(name)
