"""`data`: check, count and draw, split, pack a data set before a network is trained on it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from convatlas.cli.data.check import Check
from convatlas.cli.data.info import Info
from convatlas.cli.data.pack import Pack
from convatlas.cli.data.split import Split


@dataclass
class Data:
    """Look at a data set before training: check its files, count and draw it, split it, pack it."""

    commands: ClassVar[dict[str, Any]] = {"check": Check, "pack": Pack, "split": Split, "info": Info}
