"""How far long work is: on a terminal a bar with the time left, elsewhere a plain line now and then; on stderr, if it is long."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
AFTER, PLAIN_EVERY = 2.0, 10.0  # seconds


def is_main_process() -> bool:
    """Whether this process is the one to speak: of ranks that torchrun has started, the first."""
    return os.environ.get("RANK", "0") in ("", "0")


def track(work: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The items of `work` as they come."""
    if not is_main_process():
        yield from work
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, markup=False)
    began = said = time.monotonic()
    bar, task = None, None
    try:
        for done, item in enumerate(work, 1):
            yield item
            now = time.monotonic()
            if bar is not None and task is not None:
                bar.update(task, completed=done)
            elif console.is_terminal and now - began > AFTER:
                columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
                bar = Progress(*columns, console=console, transient=True)
                task = bar.add_task(what, total=total, completed=done)
                bar.start()
            elif not console.is_terminal and now - said > PLAIN_EVERY:
                said = now
                left = (now - began) / done * (total - done)
                print(f"{what}: {done:,} of {total:,}, about {left:,.0f} s left", file=sys.stderr, flush=True)
    finally:
        if bar is not None:
            bar.stop()
