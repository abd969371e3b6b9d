"""Arguments that several commands share."""

from typing import Annotated

from tyro.conf import arg

from convatlas.errors import UsageError

Json = Annotated[bool, arg(help="Print one JSON document on stdout, and nothing else there.")]


def positive(option: str, value: float) -> float:
    """Raises UsageError for a number that is not above 0."""
    if not value > 0:
        raise UsageError(f"{option} should be greater than 0, not {value}")
    return value
