"""metrics.jsonl and timing.jsonl of a run.

metrics.jsonl holds only functions of the run, so that a run that was killed and resumed leaves the very same
bytes; rates and waits go to timing.jsonl. Lines are scores of a split (`split`) or events (`event`:
checkpoint, unreadable, probe).
"""

from concurrent.futures import Future
from typing import Any

import msgspec

from convatlas.storage.atomic import FILE_OPS, FileOps
from convatlas.storage.json_lines import JsonLines, read_json_lines
from convatlas.training.run_folder import RunFolder

REMOVE_TIMING = "remove this file: it holds only speeds and times, and the run continues without them"


class MetricsLog:
    """The logs as every rank but 0 has them: nothing is written, and there are no lines."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def log(self, **line: Any) -> None:
        """Append a line, after those of a checkpoint that is being written."""

    def log_timing(self, **line: Any) -> None:
        """Append a line to timing.jsonl; a full disk costs these lines, but does not stop the training."""

    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return []

    def wait_for(self, pending: Future[None]) -> None:
        """Let the next line wait for `pending`, which appends one itself by `append_event`."""

    def append_event(self, **line: Any) -> None:
        """For the pending work alone: append without waiting for itself."""

    def sync(self) -> int:
        """Bring all lines to the disk; returns their length in bytes."""
        return 0

    def truncate(self, length: int) -> None:
        """Drop the lines after the first `length` bytes."""

    def close(self) -> None:
        pass


class FileMetricsLog(MetricsLog):
    """The logs of a run, as rank 0 writes them.

    Raises UserError for a log that is damaged, OSError when the disk refuses a line."""

    def __init__(self, folder: RunFolder, ops: FileOps = FILE_OPS):
        super().__init__()
        self._file = folder.metrics_file
        self._metrics = JsonLines(folder.metrics_file, ops)
        self._timing: JsonLines | None = JsonLines(folder.timing_file, ops, REMOVE_TIMING)
        self._pending: Future[None] | None = None

    def log(self, **line: Any) -> None:
        self._wait()
        self._metrics.append(line)

    def log_timing(self, **line: Any) -> None:
        if self._timing is None:
            return
        try:
            self._timing.append(line)
        except OSError as error:
            self.warnings.append(f"timing.jsonl is no longer written: {error.strerror}")
            self._timing.close()
            self._timing = None

    def lines(self) -> list[dict[str, Any]]:
        self._wait()
        return [msgspec.json.decode(line) for line in read_json_lines(self._file)]

    def wait_for(self, pending: Future[None]) -> None:
        self._pending = pending

    def _wait(self) -> None:
        """Raises what ended the pending work."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def append_event(self, **line: Any) -> None:
        self._metrics.append(line)

    def sync(self) -> int:
        self._metrics.sync()
        return self._metrics.length

    def truncate(self, length: int) -> None:
        self._metrics.truncate(length)

    def close(self) -> None:
        self._metrics.close()
        if self._timing is not None:
            self._timing.close()
