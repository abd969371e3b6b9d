"""Memory of this process: allocator settings, and how much is used and available.

Much of the slowness of an eager loop on a CPU is page faults: glibc returns every large block to the kernel
when it is freed, and each new tensor is then faulted in again, page by page.
"""

import ctypes
import os
import resource
import sys
from pathlib import Path

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def tune_malloc() -> bool:
    """Let glibc's malloc keep freed blocks for the next tensor. Returns False where that has no effect.

    Call this before torch allocates its first tensor: torch then reads from the environment whether large
    tensors lie on huge pages. They must. With a smaller alignment, the remainders that malloc cuts off the
    ends of a block are so small that other allocations take them at once. The freed block is then a few bytes
    too small for the next tensor of its size, and a process that keeps its memory grows to gigabytes.
    """
    if not sys.platform.startswith("linux"):
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 64 << 20}
    # a list, so that every option is set even if one is refused
    accepted = [libc.mallopt(option, value) == 1 for option, value in settings.items()]
    return all(accepted)


def peak_memory_bytes() -> int:
    """The peak resident size of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int:
    """The current resident size of this process; the peak where the system does not report it (no /proc)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory_bytes()


def memory_bytes() -> int:
    """The machine's memory that this process may use: all of it, or the limit of its control group."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # else "max"
            limits.append(int(text))
    return min(limits)
