"""Allocator settings. Much of the slowness of an eager loop on a CPU is page faults: glibc returns every large block to the kernel
when it is freed, and each new tensor is then faulted in again, page by page."""

import ctypes
import os
import resource
import sys
from pathlib import Path

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def tune_malloc() -> bool:
    """Let glibc's malloc keep freed blocks for the next tensor. True where that took effect (Linux with glibc).

    Large tensors are to lie on huge pages, which torch asks the environment for when it makes its first tensor: call this before. Aligned
    to less, what malloc cuts off a block's ends is so small that it is given to others at once, and the block, freed, is a few bytes
    short of the next tensor of its size: a process that keeps its memory then grows to gigabytes.
    """
    if not sys.platform.startswith("linux"):
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 64 << 20}
    taken = [libc.mallopt(option, value) == 1 for option, value in settings.items()]  # all of them, even if one is refused
    return all(taken)


def peak_memory_bytes() -> int:
    """The largest resident size that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int:
    """The resident size of this process now; where the system does not tell (no /proc), the largest that it has had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory_bytes()


def memory_bytes() -> int:
    """What this process may have of the machine's memory: all of it, or less where its control group is limited."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # else "max"
            limits.append(int(text))
    return min(limits)
