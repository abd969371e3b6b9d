import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convatlas.errors import UsageError
from convatlas.storage.lock import folder_lock

HOLD_LOCK = """
import sys, time
from pathlib import Path
from convatlas.storage.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_with_the_owners_name_until_it_dies(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD_LOCK, tmp_path], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(UsageError, match=f"process {owner.pid} on "), folder_lock(tmp_path):
            pass
        owner.kill()
    with folder_lock(tmp_path):
        pass


HOLD_LOCK_WITH_A_WORKER = """
import multiprocessing, sys, time
from pathlib import Path
from convatlas.storage.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    print(worker.pid, flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_process_and_not_with_the_workers_that_outlive_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_LOCK_WITH_A_WORKER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        worker = int(owner.stdout.readline())
        with pytest.raises(UsageError, match=f"process {owner.pid} on "), folder_lock(tmp_path):
            pass
        owner.kill()
        owner.wait()
        try:
            os.kill(worker, 0)  # it lives
            with folder_lock(tmp_path, timeout=5):  # until the child has run for the first time
                pass
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_child_that_is_forked_while_the_lock_is_held_does_not_release_it(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=int)
        child.start()
        child.join()
        with pytest.raises(UsageError, match="is being written by"), folder_lock(tmp_path):
            pass
