import os

import torch

from convatlas.runtime.threads import single_threaded_pool


def test_every_thread_runs_torch_single_threaded() -> None:
    num_threads = torch.get_num_threads()
    assert set(single_threaded_pool(2, "test").map(lambda _: torch.get_num_threads(), range(8))) == {1}
    assert torch.get_num_threads() == num_threads


def test_a_forked_process_has_a_pool_of_its_own() -> None:
    single_threaded_pool(1, "test").submit(int).result()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = single_threaded_pool(1, "test").submit(int).result(timeout=20)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
