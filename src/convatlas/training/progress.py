"""What a person sees while a run trains: a live line on a terminal, plain lines elsewhere, a row an epoch."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from convatlas.analysis import Report
from convatlas.data.task import Task
from convatlas.errors import printable
from convatlas.evaluation.classification import CLASSIFICATION
from convatlas.formatting import describe_edits, format_duration
from convatlas.runtime.progress import is_main_process
from convatlas.training.run import Run

T = TypeVar("T")
PLAIN_EVERY = 10.0  # seconds between plain lines
ESTIMATE_AFTER = 10  # steps


class ThroughputMeter:
    """Measures the training's rate since the last reading, and its share of waiting for data."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._since = time.monotonic()
        self._steps = 0
        self._waited = 0.0
        self._paused = 0.0

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches; the time that the next one takes to come counts as waiting."""
        while True:
            before = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.monotonic() - before
            yield batch
            self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time in here does not count as training."""
        before = time.monotonic()
        yield
        self._paused += time.monotonic() - before

    def read(self, batch_size: int) -> dict[str, float]:
        """Since the last reading: seconds, images a second in training, share of waiting for data."""
        seconds = time.monotonic() - self._since
        training = max(seconds - self._paused, 1e-9)
        rates = {
            "seconds": seconds,
            "images_per_second": self._steps * batch_size / training,
            "data_wait": self._waited / training,
        }
        self._start()
        return rates


class ProgressDisplay:
    """The output of one process, for all ranks.

    On stderr when `quiet_stdout` (`--json` owns stdout), else on stdout.
    """

    def __init__(self, quiet_stdout: bool = False):
        stream = sys.stderr if quiet_stdout else sys.stdout
        self.console = Console(file=stream, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self.live = self.console.is_terminal
        self._bar: Progress | None = None
        self._steps = 0
        self._done = 0
        self._started_at = 0  # the step where this process started
        self._start_time = time.monotonic()
        self._text = "first steps"
        self._last_plain = 0.0
        self._first_loss_shown = False
        self._header_shown = False
        self._task: Task = CLASSIFICATION
        self._best = -1.0  # of the task's score in validation

    def say(self, text: str = "", style: str | None = None) -> None:
        self.console.print("\n".join(printable(line) for line in text.split("\n")), style=style)

    def key_values(self, rows: Mapping[str, str]) -> None:
        width = max(map(len, rows))
        for name, value in rows.items():
            self.say(f"  {name:<{width}}  {value}")

    def banner(self, rows: Mapping[str, str], steps: int, compiling: bool) -> None:
        """What a run is, before it starts."""
        self._steps = steps
        self.key_values(rows)
        if compiling:
            self.say("  compiling at the first step: about a minute")

    def start(
        self,
        step: int,
        warnings: Sequence[str],
        lines: Sequence[Mapping[str, Any]] = (),
        task: Task = CLASSIFICATION,
    ) -> None:
        """`lines` are those of the log so far."""
        self._task = task
        validations = [line for line in lines if line.get("split") == "val" and "event" not in line]
        self._best = max((line[task.score] for line in validations), default=-1.0)
        for warning in warnings:
            self.say(f"warning: {warning}")
        if step:
            self.say(f"continuing from step {step:,} of {self._steps:,}")
        self._done = step
        self._started_at = step
        self._start_time = time.monotonic()

    @contextmanager
    def live_line(self) -> Iterator[None]:
        """A bar on a terminal, while the loop runs."""
        if not self.live:
            yield
            return
        columns = (BarColumn(24), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=self.console, transient=True) as self._bar:
            self._bar.add_task("", total=self._steps, completed=self._done, text=self._text)
            yield
        self._bar = None

    def on_microbatch(self, loss: Tensor, share: float) -> None:
        """Show that `share` of the step's batch is done."""
        if not self._first_loss_shown:
            self._first_loss_shown = True
            elapsed = format_duration(time.monotonic() - self._start_time)
            self.say(f"  first loss {loss.item():.4f}, after {elapsed}")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done + share)

    def advance(self) -> None:
        """Show that a step is done."""
        self._done += 1
        if self._done - self._started_at == ESTIMATE_AFTER:
            left = format_duration(self._seconds_left())
            self.say(f"  estimated time {left} for {self._steps - self._done:,} steps, without evaluation")
        if self._bar is not None:
            text = f"{self._text}  {format_duration(self._seconds_left())} left"
            self._bar.update(self._bar.task_ids[0], completed=self._done, text=text)

    def update(self, epoch: float, train_scores: Mapping[str, float], rates: Mapping[str, float]) -> None:
        """Show a logged line."""
        scores = (
            f"loss {train_scores['loss']:.3f}  {self._task.train_score_label} "
            f"{train_scores[self._task.train_score]:.1f} %  lr {train_scores['lr']:.2g}"
        )
        speed = f"{rates['images_per_second']:,.0f} img/s  data {100 * rates['data_wait']:.0f} %"
        self._text = f"epoch {epoch:.2f}  {scores}  {speed}"
        now = time.monotonic()
        if not self.live and now - self._last_plain >= PLAIN_EVERY:
            self._last_plain = now
            self.say(f"  {self._text}  {format_duration(self._seconds_left())} left")

    def epoch(self, epoch: float, train: Mapping[str, float], val: Mapping[str, Any]) -> None:
        """A row for the epoch that has just been validated; the best so far has a star. Off a terminal, where
        the lines of `update` stand between the rows, each is a sentence of its own."""
        score = val[self._task.score]
        label = f"val {self._task.score_label}"
        best = score >= self._best
        self._best = max(self._best, score)
        if not self.live:
            self.say(
                f"  epoch {epoch:.4g} done: train loss {train['loss']:.4f}, val loss {val['loss']:.4f}, "
                f"{label} {score:.2f} %{' (best)' if best else ''}"
            )
            return
        if not self._header_shown:
            self._header_shown = True
            self.say(f"  epoch    lr         train loss  val loss   {label}")
        star = " *" if best else ""
        row = (
            f"  {epoch:<7.4g}  {train['lr']:<9.3g}  {train['loss']:<10.4f}  {val['loss']:<9.4f}  "
            f"{score:.2f} %{star}"
        )
        self.say(row)

    def _seconds_left(self) -> float:
        elapsed = time.monotonic() - self._start_time
        return elapsed / max(self._done - self._started_at, 1) * (self._steps - self._done)


class NullDisplay(ProgressDisplay):
    """The display of the ranks that show nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.console.quiet = True
        self.live = False


def create_display(quiet_stdout: bool) -> ProgressDisplay:
    """The display of a process that a command started: rank 0 alone shows anything."""
    return ProgressDisplay(quiet_stdout) if is_main_process() else NullDisplay()


def banner_rows(
    run: Run,
    environment: Mapping[str, Any],
    device: str,
    cost: Report,
    folder: str,
    warnings: Sequence[str] = (),
    passed_over: str = "",
) -> dict[str, str]:
    """The lines of a run's banner. `passed_over`: the files of the data that are not used, in words."""
    content = run.content
    network = run.model
    preprocessing = content.preprocessing
    input_shape = "x".join(map(str, preprocessing.shape))
    image_shape = "x".join(map(str, (preprocessing.channels, *preprocessing.resize_size)))
    if preprocessing.mode == "tiles":
        image_shape = f"at {preprocessing.scale:g} times their size"
    fitted = {
        "none": "",
        "pad": f", padded to {input_shape}",
        "resize": f", resized to {input_shape}",
        "crop": f", cropped to {input_shape}",
        "tiles": f", tiles of {input_shape}",
    }[preprocessing.mode]
    counts = ", ".join(f"{n:,} {split}" for split, n in content.counts.items())
    ranks = f", {environment['ranks']} ranks" if environment["ranks"] > 1 else ""
    compiled = ", compiled" if environment["compile"] else ""
    rows = {
        "convatlas": f"{environment['convatlas']}, torch {environment['torch']}, {device}{ranks}{compiled}",
        "data": f"{run.data.name}: {counts} images {image_shape}{fitted}; {len(content.classes)} classes",
        "network": f"{network.name}, edition {network.edition}{describe_edits(network.edits)}: "
        f"{cost.params:,} parameters, "
        f"{cost.macs:,} multiply-adds an image",
        "recipe": f"{run.recipe.name} ({run.recipe.source}): batch {run.recipe.batch}, "
        f"{run.steps:,} steps of {run.steps_per_epoch:,} an epoch",
        "run": f"{run.id[:8]}, seed {run.seed}",
        "folder": folder,
    }
    if passed_over:
        rows["passed over"] = passed_over
    for name, sentences in (("note", run.notes), ("warning", warnings)):
        for number, sentence in enumerate(sentences, 1):
            rows[name if number == 1 else f"{name} {number}"] = sentence
    return rows
