"""What every message to a user is, whatever it quotes."""

import unicodedata


def is_harmless_line(text: str) -> bool:
    """Whether a text is one line without control characters; spaces of other widths stand as they are."""
    return all(char.isprintable() or unicodedata.category(char) == "Zs" for char in text)
