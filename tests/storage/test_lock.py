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
