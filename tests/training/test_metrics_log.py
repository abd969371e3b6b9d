"""The logs of a run, and the null objects that stand in for logs and display on the other ranks."""

import errno
import inspect
import re
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import pytest
import torch
from helpers.small_runs import small_run

from convatlas import training
from convatlas.errors import UserError
from convatlas.storage.atomic import FileOps
from convatlas.training.metrics_log import FileMetricsLog, MetricsLog
from convatlas.training.progress import NullDisplay, ProgressDisplay
from convatlas.training.run import RunFile
from convatlas.training.run_folder import RunFolder

SOURCES = Path(training.__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, RunFile(run=small_run()))


def public_names(type_: type) -> set[str]:
    return {name for name in dir(type_) if not name.startswith("_")}


def used_names(attribute: str) -> set[str]:
    """The names that the source of training uses of `ctx.ATTRIBUTE`, `self.ATTRIBUTE` or ATTRIBUTE."""
    pattern = re.compile(rf"\b(?:ctx\.|context\.|self\._?)?{attribute}\.(\w+)")
    files = ("loop", "train", "unreadable", "checkpoint")
    return {name for file in files for name in pattern.findall((SOURCES / f"{file}.py").read_text())}


# Null objects


def test_the_null_log_has_everything_that_training_uses() -> None:
    log = MetricsLog()
    names = used_names("log")
    assert {"log", "log_timing", "lines", "sync", "truncate", "wait_for", "append_event"} <= names
    assert all(hasattr(log, name) for name in names), names
    assert public_names(FileMetricsLog) <= public_names(MetricsLog)


def test_the_null_log_takes_the_arguments_of_the_log_of_rank_0() -> None:
    for name in public_names(MetricsLog):
        parameters = inspect.signature(getattr(MetricsLog, name)).parameters
        assert parameters == inspect.signature(getattr(FileMetricsLog, name)).parameters


def test_the_null_log_holds_nothing() -> None:
    log = MetricsLog()
    log.log(step=1, split="train", loss=1.0)
    log.log_timing(step=1)
    log.wait_for(Future())
    log.append_event(event="checkpoint")
    log.truncate(0)
    assert log.lines() == []
    assert log.warnings == []
    assert log.sync() == 0
    log.close()


def test_the_null_display_has_everything_that_training_uses() -> None:
    display = NullDisplay()
    names = used_names("display")
    assert {"say", "start", "live_line", "on_microbatch", "advance", "update", "epoch", "banner"} <= names
    assert all(callable(getattr(display, name)) for name in names), names


def test_the_null_display_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    display = NullDisplay()
    display.banner({"run": "12345678"}, steps=20, compiling=True)
    display.start(3, ["a warning"])
    with display.live_line():
        for step in range(12):
            display.on_microbatch(torch.tensor(1.0), 1.0)
            display.advance()
            rates = {"images_per_second": 10.0, "data_wait": 0.1}
            display.update(step / 10, {"loss": 1.0, "top1": 50.0, "lr": 0.1}, rates)
    display.epoch(1.0, {"loss": 1.0, "lr": 0.1}, {"loss": 1.0, "top1": 50.0})
    display.key_values({"note": "a note"})
    display.say("a line")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    ProgressDisplay().say("a line")
    assert capfd.readouterr().out == "a line\n"


# The logs of rank 0


def test_lines_are_read_back_in_their_order(folder: RunFolder) -> None:
    with closing(FileMetricsLog(folder)) as log:
        log.log(step=1, split="train", loss=2.0)
        log.append_event(step=1, event="checkpoint")
        log.log(step=2, split="train", loss=1.0)
        lines = log.lines()
    assert [(line["step"], line.get("split"), line.get("event")) for line in lines] == [
        (1, "train", None),
        (1, None, "checkpoint"),
        (2, "train", None),
    ]
    with closing(FileMetricsLog(folder)) as log:
        assert log.lines() == lines


def test_a_damaged_log_is_refused_by_its_line(folder: RunFolder) -> None:
    with closing(FileMetricsLog(folder)) as log:
        for step in range(1, 4):
            log.log(step=step, split="train", loss=1.0)
    damaged = folder.metrics_file.read_bytes().replace(b'"step":2', b'"step":4')
    folder.metrics_file.write_bytes(damaged)
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged at line 2: "):
        FileMetricsLog(folder)


def test_a_damaged_log_of_timing_is_to_be_removed_alone(folder: RunFolder) -> None:
    with closing(FileMetricsLog(folder)) as log:
        log.log(step=1, split="train", loss=1.0)
        log.log_timing(step=1, seconds=1.0)
    folder.timing_file.write_bytes(folder.timing_file.read_bytes().replace(b"1.0", b"2.0"))
    with pytest.raises(UserError, match=r"timing\.jsonl is damaged at line 1: .*remove this file:") as error:
        FileMetricsLog(folder)
    assert "start again" not in str(error.value)
    folder.timing_file.unlink()  # as the sentence says
    with closing(FileMetricsLog(folder)) as log:
        assert [line["step"] for line in log.lines()] == [1]


def test_the_next_line_raises_what_ended_the_pending_work(folder: RunFolder) -> None:
    pending: Future[None] = Future()
    pending.set_exception(OSError(errno.ENOSPC, "No space left on device"))
    with closing(FileMetricsLog(folder)) as log:
        log.wait_for(pending)
        with pytest.raises(OSError, match="No space left"):
            log.log(step=1)
        log.log(step=1)  # the error was reported once
        assert [line["step"] for line in log.lines()] == [1]


class FullDisk(FileOps):
    """Refuses every write to timing.jsonl."""

    def __init__(self) -> None:
        self.timing_file = -1

    def open_append(self, path: Path) -> int:
        file = super().open_append(path)
        if path.name == "timing.jsonl":
            self.timing_file = file
        return file

    def write(self, file: int, data: bytes) -> None:
        if file == self.timing_file:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(file, data)


@pytest.fixture
def log_on_full_disk(folder: RunFolder) -> Iterator[FileMetricsLog]:
    with closing(FileMetricsLog(folder, FullDisk())) as log:
        yield log


def test_timing_that_cannot_be_written_is_one_warning(log_on_full_disk: FileMetricsLog) -> None:
    log_on_full_disk.log_timing(step=1, seconds=1.0)
    log_on_full_disk.log_timing(step=2, seconds=1.0)
    assert log_on_full_disk.warnings == ["timing.jsonl is no longer written: No space left on device"]
    log_on_full_disk.log(step=1, split="train")
    assert [line["step"] for line in log_on_full_disk.lines()] == [1]
