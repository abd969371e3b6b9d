"""Find files by the names that a list gives them.

macOS and some archives write letters with accents in two characters (NFD), most programs in one (NFC).
"""

import os
import unicodedata
from pathlib import Path


class NormalizedLookup:
    """Finds files below `root` by names in any Unicode form; reads each folder at most once."""

    def __init__(self, root: Path):
        self.root = root
        self._names: dict[str, dict[str, str]] = {}  # of each folder: its entries by their composed forms

    def find(self, name: str) -> str | None:
        """The name of the file that has the same letters as `name`; None if there is none."""
        path = "/" if name.startswith("/") else ""
        for part in name.strip("/").split("/"):
            candidate = os.path.join(path, part)
            if not os.path.lexists(self.root / candidate):
                match = self._entries(path).get(unicodedata.normalize("NFC", part))
                if match is None:
                    return None
                candidate = os.path.join(path, match)
            path = candidate
        return path

    def _entries(self, folder: str) -> dict[str, str]:
        if folder not in self._names:
            try:
                names = sorted(os.listdir(self.root / folder))
            except OSError:  # no folder, or one that cannot be read
                names = []
            self._names[folder] = {unicodedata.normalize("NFC", name): name for name in names}
        return self._names[folder]
