"""Find files by the names that a list gives them.

macOS and some archives write letters with accents in two characters (NFD), most programs in one (NFC).
"""

import os
import unicodedata
from functools import cache
from pathlib import Path


@cache
def _names_by_nfc(folder: str) -> dict[str, str]:
    """The names in a folder by their composed forms; empty for a folder that cannot be read."""
    try:
        return {unicodedata.normalize("NFC", name): name for name in sorted(os.listdir(folder))}
    except OSError:
        return {}


def find_normalized(root: Path, name: str) -> str | None:
    """The name of a file that has the same letters in another Unicode form; None if there is none."""
    path = "/" if name.startswith("/") else ""
    for part in name.strip("/").split("/"):
        candidate = os.path.join(path, part)
        if not os.path.lexists(root / candidate):
            match = _names_by_nfc(str(root / path)).get(unicodedata.normalize("NFC", part))
            if match is None:
                return None
            candidate = os.path.join(path, match)
        path = candidate
    return path
