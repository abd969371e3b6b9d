"""What a user can cause: one sentence that names the thing, what was expected, and what to do."""

import difflib
from collections.abc import Iterable

MAX_LISTED = 80  # names in a message


class UserError(Exception):
    """A job or an input that cannot be used (exit code 1). The message is one line for people."""

    exit_code = 1


class UsageError(UserError):
    """A command or record that asks for something that does not exist (exit code 2)."""

    exit_code = 2


class FailedOnOtherRank(UserError):
    """Another of the processes that work together has said what is wrong: this one ends with the same exit code, silently."""

    def __init__(self, exit_code: int):
        super().__init__("another rank has said what is wrong")
        self.exit_code = exit_code


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """`unknown network 'resnet21_cifar': the nearest is 'resnet20_cifar'`, or the list where nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"the nearest is {near[0]!r}" if near else f"known are {', '.join(known[:MAX_LISTED])}"
    hint += f" and {len(known) - MAX_LISTED} more" if not near and len(known) > MAX_LISTED else ""
    return UsageError(f"unknown {kind} {printable(name)!r}: {hint}")


def printable(text: object) -> str:
    """Text from files and folders as one harmless line: no control characters, so nothing a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
