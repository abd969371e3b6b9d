"""Thread pools for reading images or writing files while other threads compute."""

import os
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Barrier

import torch


@cache
def single_threaded_pool(num_threads: int, name: str) -> ThreadPoolExecutor:
    """A pool of `num_threads` threads that each run torch single-threaded: by default torch would give each
    of them an intra-op pool of its own. There is one pool for each number and `name`."""
    barrier = Barrier(num_threads)  # every thread of the pool runs the function below once

    def limit_to_one_thread() -> None:
        torch.get_num_threads()  # initialises the setting of this thread
        torch.set_num_threads(1)
        barrier.wait()

    num_torch_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(num_threads, name)
    wait([pool.submit(limit_to_one_thread) for _ in range(num_threads)])
    torch.set_num_threads(num_torch_threads)  # the calls above have changed it for new threads too
    return pool


# the threads of the parent do not exist in a forked child: their pools would wait forever
os.register_at_fork(after_in_child=single_threaded_pool.cache_clear)
