"""The logs of a run, and the same figures for TensorBoard."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convatlas.errors import UserError
from convatlas.storage.atomic import FILE_OPS, FileOps
from convatlas.training.metrics_log import FileMetricsLog
from convatlas.training.run_folder import RunFolder

FOLDER = "tensorboard"
POSITION = ("step", "epoch")  # of a line, not figures


def check_installed() -> None:
    """Raises UserError where TensorBoard is missing."""
    try:
        import tensorboard  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        raise UserError(
            "--log tensorboard needs a package that is not installed: pip install 'convatlas[tensorboard]'"
        ) from None


def tensorboard_command(folder: RunFolder) -> str:
    """What to type to see the figures of a run."""
    return f"tensorboard --logdir {folder.path.resolve() / FOLDER}"


class TensorBoardLog(FileMetricsLog):
    """Writes every figure of metrics.jsonl and timing.jsonl also to RUN/tensorboard.

    Those files are disposable: nothing reads them back, and a disk that refuses them stops no training. After
    a resume TensorBoard hides what the interrupted process wrote beyond its checkpoint.
    """

    def __init__(self, folder: RunFolder, ops: FileOps = FILE_OPS):
        super().__init__(folder, ops)
        self._folder = folder.path / FOLDER
        self._writer: Any = None
        self._failed = False

    def log(self, **line: Any) -> None:
        super().log(**line)
        self._write(str(line.get("split", "events")), line)

    def log_timing(self, **line: Any) -> None:
        super().log_timing(**line)
        self._write("timing", line)

    def _write(self, group: str, line: Mapping[str, Any]) -> None:
        figures = {
            key: value
            for key, value in line.items()
            if key not in POSITION and isinstance(value, int | float) and not isinstance(value, bool)
        }
        if self._failed or not figures or "step" not in line:
            return
        try:
            if self._writer is None:
                self._writer = _create_writer(self._folder, line["step"])
            for key, value in figures.items():
                self._writer.add_scalar(f"{group}/{key}", value, line["step"])
        except OSError as error:
            self._failed = True
            self.warnings.append(f"{FOLDER} is no longer written: {error.strerror}")

    def close(self) -> None:
        super().close()
        if self._writer is not None:
            self._writer.close()


def _create_writer(folder: Path, first_step: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(folder), purge_step=first_step)
