"""A worker process's task."""

from convatlas.storage.records import Record
from convatlas.training.run import Run


class Task(Record, frozen=True, kw_only=True):
    """Train `run` in `folder`, and write its result to the file `result`."""

    run: Run
    folder: str
    result: str
    device: str = "cpu"
