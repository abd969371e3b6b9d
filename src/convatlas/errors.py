"""Errors that a user can cause: one sentence that names the thing, what was expected, and what to do."""

import difflib
from collections.abc import Iterable

from convatlas.names import printable as printable

MAX_LISTED = 20  # names in a message


class UserError(Exception):
    """A job or an input that cannot be used (exit code 1). The message is one line for people."""

    exit_code = 1


class UsageError(UserError):
    """A command or record that asks for something that does not exist (exit code 2)."""

    exit_code = 2


class MissingDataError(UserError):
    """A data set whose files are not where its name says: it may have been moved."""


class NonFiniteLossError(UserError):
    """A training whose loss is not finite. The weights before that step are saved."""


class FailedOnOtherRank(UserError):
    """The error of another rank, which has printed it: this process ends silently with the same exit code."""

    def __init__(self, exit_code: int):
        super().__init__("another rank has failed and has printed why")
        self.exit_code = exit_code


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist. Its message names the nearest known name, or lists the known
    names when none is near: `unknown network 'resnet21_cifar': the nearest is 'resnet20_cifar'`."""
    names = list(known)
    if not isinstance(name, str):
        article = "an" if kind[0] in "aeiou" else "a"
        return UsageError(f"expected the name of {article} {kind}, not {printable(repr(name))[:60]}")
    matches = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    if matches:
        hint = f"the nearest is {matches[0]!r}"
    else:
        hint = f"known are {', '.join(names[:MAX_LISTED])}"
        if len(names) > MAX_LISTED:
            hint += f" and {len(names) - MAX_LISTED} more"
    return UsageError(f"unknown {kind} '{printable(name)}': {hint}")


def wrong_type(what: str, value: object, expected: str) -> UsageError:
    """The error for an argument of another type: `what` should be `expected`, not a TYPE."""
    kind = type(value).__name__
    article = "an" if kind[0].lower() in "aeiou" else "a"
    return UsageError(f"{what} should be {expected}, not {article} {kind}")
