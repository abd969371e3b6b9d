"""Images that a run cannot read: logged, put on the quarantine list, and too many of them end the run."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from convatlas.data import Dataset
from convatlas.data.loading.train_batches import max_unreadable, too_many_unreadable
from convatlas.data.sources.quarantine import Quarantine, QuarantinedFile
from convatlas.data.transforms.preprocessing import UnreadableSample
from convatlas.errors import UserError
from convatlas.training.metrics_log import MetricsLog
from convatlas.training.progress import ProgressDisplay
from convatlas.training.run import Run


class UnreadableImageLog:
    def __init__(self, run: Run, dataset: Dataset, log: MetricsLog, display: ProgressDisplay):
        self.run = run
        self.dataset = dataset
        self.log = log
        self.display = display

    @cached_property
    def logged(self) -> set[tuple[str, int]]:
        """(split, index) of the images in the log, read at the first new one."""
        return {(event["split"], event["index"]) for event in self._events()}

    def record(self, step: int, split: str, samples: Iterable[UnreadableSample]) -> None:
        """Log the samples, of all ranks, that are not in the log yet.

        Raises UserError by the run's policy, or when there are more than a data set that was checked should
        have.
        """
        for sample in sorted(set(samples)):
            if self.run.on_unreadable == "fail":
                raise UserError(
                    f"{sample.file}: {sample.reason}; leave such images out with --set on_unreadable=skip"
                )
            if (split, sample.index) in self.logged:
                continue
            self.logged.add((split, sample.index))
            self.log.log(
                step=step,
                epoch=step / self.run.steps_per_epoch,
                event="unreadable",
                split=split,
                index=sample.index,
                file=sample.file,
                reason=sample.reason,
            )
            consequence = "replaced by another image" if split == "train" else "not counted"
            self.display.say(f"  cannot read {sample.file} ({sample.reason}): {consequence}")
            total = sum(self.run.content.counts.values())
            if len(self.logged) > max_unreadable(total):
                raise UserError(too_many_unreadable(total, sample))

    def quarantine(self) -> None:
        """Put the logged images on the list for later runs.

        Only at the end: a resumed run must be the same run.
        """
        events = self._events()
        if self.dataset.root is None or not events:
            return
        hashes = {name: split.content_hashes for name, split in self.dataset.splits.items()}
        files = [
            QuarantinedFile(
                file=event["file"],
                reason=event["reason"],
                content=bytes(hashes[event["split"]][event["index"]]).hex(),
            )
            for event in events
        ]
        quarantine = Quarantine(self.dataset.root)
        try:
            quarantine.add(files)
        except OSError as error:
            self.display.say(
                f"  the {len(files)} broken images could not be added to {quarantine.file}: {error.strerror}"
            )
            return
        self.display.say(f"  {len(files)} broken images are in {quarantine.file}: later runs leave them out")

    def _events(self) -> list[dict[str, Any]]:
        return [line for line in self.log.lines() if line.get("event") == "unreadable"]
