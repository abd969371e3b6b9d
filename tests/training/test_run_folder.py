"""The folder of a run: who may start it, continue in it, and write there."""

import os
from pathlib import Path

import pytest
from helpers.small_runs import small_run

from convatlas.errors import UsageError, UserError
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.training.run import RunFile, serialize_run_file
from convatlas.training.run_folder import open_run_folder, read_run_folder

RUN_FILE = RunFile(run=small_run(), environment={"torch": "2.0", "threads": 1})


def start_run(path: Path) -> None:
    with open_run_folder(path, RUN_FILE, None):
        pass


def test_a_new_folder_holds_the_run_and_a_place_for_checkpoints(tmp_path: Path) -> None:
    with open_run_folder(tmp_path / "run", RUN_FILE, None) as folder:
        assert folder.run_file == RUN_FILE
        assert folder.checkpoints.is_dir()
        assert list(folder.checkpoints.iterdir()) == []
    assert (tmp_path / "run" / "run.json").read_bytes() == serialize_run_file(RUN_FILE)
    assert read_run_folder(tmp_path / "run") == RUN_FILE


def test_a_folder_without_a_run_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert read_run_folder(tmp_path) is None
    assert read_run_folder(tmp_path / "nowhere") is None
    assert read_run_folder(tmp_path / "file") is None


def test_a_run_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(UserError, match=r"^cannot read .*run\.json \(it is a folder\)"):
        read_run_folder(tmp_path)


def test_continuing_keeps_the_run_file_and_removes_temporary_files(tmp_path: Path) -> None:
    start_run(tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    leftovers = [
        tmp_path / "run" / ".report.md.17.tmp",
        tmp_path / "run" / "checkpoints" / ".00000001.safetensors.17.tmp",
    ]
    for leftover in leftovers:
        leftover.write_bytes(b"of a process that was killed while it wrote")
    existing = read_run_folder(tmp_path / "run")
    with open_run_folder(tmp_path / "run", RUN_FILE, existing) as folder:
        assert folder.run_file == existing
        assert not any(leftover.exists() for leftover in leftovers)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_the_other_ranks_write_nothing(tmp_path: Path) -> None:
    ranks = Ranks(rank=1, world_size=2)
    with open_run_folder(tmp_path / "run", RUN_FILE, None, ranks=ranks) as folder:
        assert folder.run_file == RUN_FILE
    assert not (tmp_path / "run").exists()


def test_only_one_process_at_a_time_may_write(tmp_path: Path) -> None:
    start_run(tmp_path / "run")
    with open_run_folder(tmp_path / "run", RUN_FILE, RUN_FILE):
        message = rf"is being written by process {os.getpid()} on .*: wait for it to end"
        with pytest.raises(UsageError, match=message), open_run_folder(tmp_path / "run", RUN_FILE, RUN_FILE):
            pass


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    start_run(tmp_path / "run")
    other = RUN_FILE.replace(run=small_run(seed=1))
    message = r"holds another run \(seed: 0 -> 1\): give another folder with --out"
    with pytest.raises(UsageError, match=message), open_run_folder(tmp_path / "run", other, RUN_FILE):
        pass
    assert read_run_folder(tmp_path / "run") == RUN_FILE


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with (
        pytest.raises(UsageError, match="is not empty and holds no run"),
        open_run_folder(tmp_path, RUN_FILE, None),
    ):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_environment_is_refused_unless_forced(tmp_path: Path) -> None:
    start_run(tmp_path / "run")
    newer = RUN_FILE.replace(environment={"torch": "2.1", "threads": 1})
    message = r"started in another environment \(torch: \"2\.0\" -> \"2\.1\"\).*--force"
    with pytest.raises(UsageError, match=message), open_run_folder(tmp_path / "run", newer, RUN_FILE):
        pass
    with open_run_folder(tmp_path / "run", newer, RUN_FILE, force=True) as folder:
        assert folder.run_file == RUN_FILE  # what the run was started in
