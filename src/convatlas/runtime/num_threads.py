"""How many threads compute: the user's choice, else an equal share of the cores. This file does not load
torch."""

import os
from collections.abc import Mapping

from convatlas.errors import UsageError

MAX_THREADS = 1024
VARIABLE = "CONVATLAS_THREADS"  # set by --threads


def usable_core_numbers() -> tuple[int, ...]:
    """The cores that this process may run on, by the system's numbers."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(usable_core_numbers())


def default_threads(local_ranks: int = 1, environment: Mapping[str, str] = os.environ) -> int:
    """The threads of each of the `local_ranks` ranks of this machine: CONVATLAS_THREADS, else
    OMP_NUM_THREADS, else an equal share of the cores.

    torchrun sets OMP_NUM_THREADS to 1 for several ranks of a machine: that is no choice of the user's. Raises
    UsageError for a variable that is no count.
    """
    for variable in (VARIABLE, "OMP_NUM_THREADS"):
        text = environment.get(variable, "").partition(",")[0].strip()  # "4,2": for nested regions
        if text and not (text == "1" and local_ranks > 1 and variable != VARIABLE):
            return parse_threads(variable, text)
    return max(1, usable_cores() // local_ranks)


def parse_threads(name: str, text: str) -> int:
    """Raises UsageError for a text that is no number of threads."""
    if not text.isdecimal() or not 0 < int(text) <= MAX_THREADS:
        raise UsageError(f"{name} is {text!r}: expected a number of threads from 1 to {MAX_THREADS}")
    return int(text)
