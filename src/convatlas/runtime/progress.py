"""Progress of long work on stderr: a bar with the time left on a terminal, else a plain line now and then."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
BAR_AFTER_SECONDS = 2.0  # short work shows no bar
PLAIN_LINE_SECONDS = 10.0  # between plain lines


def is_main_process() -> bool:
    """Whether this process prints: with several ranks (torchrun's variables), only rank 0 does."""
    return os.environ.get("RANK", "0") in ("", "0")


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield the `total` items, and show how many are done."""
    if not is_main_process():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, markup=False)
    start = time.monotonic()
    last_line = start
    bar, task = None, None
    try:
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if bar is not None and task is not None:
                bar.update(task, completed=done)
            elif console.is_terminal and now - start > BAR_AFTER_SECONDS:
                columns = (
                    TextColumn("{task.description}"),
                    BarColumn(24),
                    MofNCompleteColumn(),
                    TimeRemainingColumn(),
                )
                bar = Progress(*columns, console=console, transient=True)
                task = bar.add_task(description, total=total, completed=done)
                bar.start()
            elif not console.is_terminal and now - last_line > PLAIN_LINE_SECONDS:
                last_line = now
                left = (now - start) / done * (total - done)
                print(
                    f"{description}: {done:,} of {total:,}, about {left:,.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )
    finally:
        if bar is not None:
            bar.stop()
