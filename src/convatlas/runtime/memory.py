"""Allocator settings. Much of the slowness of an eager loop on a CPU is page faults: glibc returns every large block to the kernel
when it is freed, and each new tensor is then faulted in again, page by page."""

import ctypes
import os
import resource
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_freed_memory() -> bool:
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
