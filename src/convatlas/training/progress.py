"""What a person sees while a run goes on: a live line on a terminal, plain lines elsewhere, a row an epoch."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from convatlas.analysis import Report
from convatlas.errors import printable
from convatlas.formatting import format_duration
from convatlas.runtime.progress import is_main_process
from convatlas.training.run import Run
from convatlas.training.run_folder import RunFolder

T = TypeVar("T")
PLAIN_EVERY = 10.0  # seconds between plain lines
ESTIMATE_AFTER = 10  # steps


class ThroughputMeter:
    """Measures the rate of training since the last reading, and the share of its time spent waiting for data."""

    def __init__(self, display: "ProgressDisplay"):
        self.display, self.began = display, time.monotonic()
        self.first, self.steps, self.waited, self.beside = self.began, 0, 0.0, 0.0

    def timed(self, stream: Iterator[T]) -> Iterator[T]:
        while True:
            before = time.monotonic()
            try:
                item = next(stream)
            except StopIteration:
                return
            self.waited += time.monotonic() - before
            yield item
            self.steps += 1
            self.display.advance(self)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in here is no training."""
        before = time.monotonic()
        yield
        self.beside += time.monotonic() - before

    def on_microbatch(self, loss: Tensor, share: float) -> None:
        """A part of the step's batch is through the network: its loss, and the share of the batch up to it."""
        self.display.on_microbatch(loss, share, time.monotonic() - self.first)

    def read(self, batch: int) -> tuple[float, float, float]:
        """(images a second in training, share of its time spent waiting, seconds in all) since the last reading."""
        elapsed = time.monotonic() - self.began
        training = max(elapsed - self.beside, 1e-9)
        rate, share = self.steps * batch / training, self.waited / training
        self.began, self.steps, self.waited, self.beside = time.monotonic(), 0, 0.0, 0.0
        return rate, share, elapsed


class ProgressDisplay:
    """What one process says, for all that train together. Writes to stderr when `quiet_stdout` (`--json` owns stdout), else to stdout."""

    def __init__(self, quiet_stdout: bool = False):
        self.console = Console(file=sys.stderr if quiet_stdout else sys.stdout, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self.live = self.console.is_terminal
        self.run: Run | None = None
        self.bar: Progress | None = None
        self.done = self.at_start = 0
        self.text, self.last_plain, self.first_loss_shown, self.estimated = "", 0.0, False, False

    def say(self, text: str = "", style: str | None = None) -> None:
        self.console.print("\n".join(printable(line) for line in text.split("\n")), style=style)

    def key_values(self, rows: dict[str, str]) -> None:
        width = max(map(len, rows))
        for name, value in rows.items():
            self.say(f"  {name:<{width}}  {value}")

    def start(self, step: int, folder: RunFolder) -> None:
        self.run = folder.run_file.run
        for warning in folder.warnings:
            self.say(f"warning: {warning}")
        folder.warnings.clear()
        if step:
            self.say(f"continuing from step {step:,} of {self.run.steps:,}")
        self.done = self.at_start = step

    @contextmanager
    def clock(self) -> Iterator[ThroughputMeter]:
        if not self.live:
            yield ThroughputMeter(self)
            return
        columns = (BarColumn(24), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=self.console, transient=True) as self.bar:
            self.bar.add_task("", total=self._run.steps, completed=self.done, text="first steps")
            yield ThroughputMeter(self)
        self.bar = None

    def on_microbatch(self, loss: Tensor, share: float, seconds: float) -> None:
        if not self.first_loss_shown:
            self.first_loss_shown = True
            self.say(f"  first loss {loss.item():.4f}, after {format_duration(seconds)}")
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done + share)

    def advance(self, clock: ThroughputMeter) -> None:
        self.done += 1
        if not self.estimated and self.done - self.at_start == ESTIMATE_AFTER:
            self.estimated = True
            self.say(f"  estimated time {format_duration(self._left(clock))} for {self._run.steps - self.done:,} steps, without evaluation")
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done, text=f"{self.text}  {format_duration(self._left(clock))} left")

    def progress(self, step: int, line: dict[str, float], clock: ThroughputMeter) -> dict[str, float]:
        """Show a logged line; returns what timing.jsonl keeps of it."""
        rate, share, seconds = clock.read(self._run.recipe.batch)
        epoch = step / self._run.steps_per_epoch
        self.text = f"epoch {epoch:.2f}  loss {line['loss']:.3f}  top-1 {line['top1']:.1f} %  lr {line['lr']:.2g}"
        self.text += f"  {rate:,.0f} img/s  data {100 * share:.0f} %"
        now = time.monotonic()
        if not self.live and now - self.last_plain >= PLAIN_EVERY:
            self.last_plain = now
            self.say(f"  {self.text}  {format_duration(self._left(clock))} left")
        return {"seconds": seconds, "images_per_second": rate, "waiting": share}

    def epoch(self, folder: RunFolder) -> None:
        """A row for the epoch that has just been validated; the best so far carries a star."""
        lines = folder.lines()
        rows = [line for line in lines if line["split"] == "val"]
        row, train = rows[-1], [line for line in lines if line["split"] == "train"][-1]
        best = " *" if row["top1"] == max(r["top1"] for r in rows) else ""
        if len(rows) == 1:
            self.say("  epoch    lr         train loss  val loss   val top-1")
        self.say(f"  {row['epoch']:<7.4g}  {train['lr']:<9.3g}  {train['loss']:<10.4f}  {row['loss']:<9.4f}  {row['top1']:.2f} %{best}")

    @property
    def _run(self) -> Run:
        assert self.run is not None
        return self.run

    def _left(self, clock: ThroughputMeter) -> float:
        return (time.monotonic() - clock.first) / max(self.done - self.at_start, 1) * (self._run.steps - self.done)


class NullDisplay(ProgressDisplay):
    """For the ranks that do not speak."""

    def __init__(self) -> None:
        super().__init__()
        self.console.quiet, self.live = True, False

    def epoch(self, folder: RunFolder) -> None:
        pass


def display(quiet_stdout: bool) -> ProgressDisplay:
    """What a process says that a command started."""
    return ProgressDisplay(quiet_stdout) if is_main_process() else NullDisplay()


def banner(run: Run, environment: dict[str, Any], device: str, cost: Report, data_notes: tuple[str, ...], folder: str) -> dict[str, str]:
    """What a run is, in the lines that stand above it."""
    content, network = run.content, run.model
    shape = "x".join(map(str, (content.preprocessing.channels, *content.preprocessing.size)))
    counts = ", ".join(f"{n:,} {split}" for split, n in content.counts.items())
    fitted = {"none": "", "pad": f", padded to {shape}", "resize": f", resized to {shape}", "crop": f", cropped to {shape}"}[
        content.preprocessing.fit
    ]
    source = "x".join(map(str, (content.preprocessing.channels, *content.preprocessing.source)))
    length = f"{run.steps:,} steps of {run.steps_per_epoch:,} an epoch"
    return {
        "convatlas": f"{environment['convatlas']}, torch {environment['torch']}, {device}"
        + (f", {environment['ranks']} ranks" if environment["ranks"] > 1 else "")
        + (", compiled" if environment["compile"] else ""),
        "data": f"{run.data.name}: {counts} images {source}{fitted}; {len(content.classes)} classes",
        "network": f"{network.name}, edition {network.edition}: {cost.params:,} parameters, {cost.macs:,} multiply-adds an image",
        "recipe": f"{run.recipe.name} ({run.recipe.source}): batch {run.recipe.batch}, {length}",
        "run": f"{run.id[:8]}, seed {run.seed}",
        "folder": folder,
    } | {"note" if i == 0 else f"note {i + 1}": note for i, note in enumerate(data_notes)}
