"""Threads that read images or write files while others compute."""

from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Barrier

import torch


@cache
def single_threaded_pool(count: int, work: str) -> ThreadPoolExecutor:
    """`count` threads for a kind of work, each of which computes by itself: torch would give each of them a team of as many."""
    together = Barrier(count)

    def alone() -> None:
        torch.get_num_threads()  # sets it, the first time
        torch.set_num_threads(1)
        together.wait()

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, work)
    wait([pool.submit(alone) for _ in range(count)])
    torch.set_num_threads(before)  # for the threads to come, which it has changed as well
    return pool
