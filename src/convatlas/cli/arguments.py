"""Arguments that several commands share."""

from typing import Annotated, Any

import tyro.conf

from convatlas.errors import UsageError

NO_DEFAULT = ("None", "", "''", "False")  # that help does not mention


def arg(help: str = "", metavar: str | None = None, name: str | None = None) -> Any:
    """The help of an argument, with its default where that says something."""
    return tyro.conf.arg(help=help or None, metavar=metavar, name=name, help_behavior_hint=_describe_default)


def _describe_default(default: str) -> str:
    return "" if default in NO_DEFAULT else f"(default: {default})"


Json = Annotated[bool, arg(help="Print one JSON document on stdout, and nothing else there.")]

Edits = Annotated[
    tuple[str, ...],
    arg(metavar="'EDIT(FIELD=VALUE)' ...", help="Changes of the network, in their order: docs/edits.md."),
]


MAX_WORKERS = 1024


def check_workers(workers: int | None, least: int = 0) -> None:
    """Raises UsageError for a number of processes that no machine starts."""
    if workers is not None and not least <= workers <= MAX_WORKERS:
        raise UsageError(f"--workers should be {least} to {MAX_WORKERS:,}, not {workers:,}")
