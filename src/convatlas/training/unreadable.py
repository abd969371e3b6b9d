"""What a run does about images that it cannot read: log them, put them on the quarantine list, and give up when they are too many."""

from collections.abc import Iterable
from functools import cached_property

from convatlas.data import Dataset
from convatlas.data.loading.train_batches import max_unreadable, too_many_unreadable
from convatlas.data.sources.quarantine import Quarantine, QuarantinedFile
from convatlas.data.transforms.preprocessing import UnreadableSample
from convatlas.errors import UserError, printable
from convatlas.training.progress import ProgressDisplay
from convatlas.training.run_folder import RunFolder


class UnreadableImageLog:
    def __init__(self, dataset: Dataset, folder: RunFolder, display: ProgressDisplay):
        self.dataset, self.folder, self.display = dataset, folder, display
        self.run = folder.run_file.run

    @cached_property
    def logged(self) -> set[tuple[str, int]]:
        """Read when the first one turns up, thus after the log was cut back to where a resumed run continues."""
        return {(line["part"], line["index"]) for line in self.folder.lines() if line["split"] == "unread"}

    def record(self, step: int, part: str, unread: Iterable[UnreadableSample]) -> None:
        """`unread` are those of all ranks. Raises UserError by the run's policy, or when there are more than a data set that was looked at
        should have."""
        for one in sorted(set(unread)):
            if self.run.broken == "fail":
                raise UserError(f"{printable(one.file)}: {one.reason}; leave such images out with --set broken=skip")
            if (part, one.index) in self.logged:
                continue
            self.logged.add((part, one.index))
            epoch = step / self.run.steps_per_epoch
            self.folder.log(step=step, epoch=epoch, split="unread", part=part, index=one.index, file=one.file, reason=one.reason)
            self.display.say(f"  cannot read {one.file} ({one.reason}): {'another takes its place' if part == 'train' else 'not counted'}")
            samples = sum(self.run.content.counts.values())
            if len(self.logged) > max_unreadable(samples):
                raise UserError(too_many_unreadable(samples, one))

    def quarantine(self) -> None:
        """Put all that the run has met on the list, for later runs. Only at its end: a run that is started again must be the same run."""
        lines = [line for line in self.folder.lines() if line["split"] == "unread"]
        if self.dataset.root is None or not lines:
            return
        keys = {part: split.content_hashes for part, split in self.dataset.splits.items()}
        found = [QuarantinedFile(file=n["file"], reason=n["reason"], content=bytes(keys[n["part"]][n["index"]]).hex()) for n in lines]
        quarantine = Quarantine(self.dataset.root)
        try:
            quarantine.add(found)
        except OSError as error:
            self.display.say(f"  the {len(found)} broken images could not be put on {quarantine.file}: {error.strerror}")
            return
        self.display.say(f"  {len(found)} broken images are on {quarantine.file}: runs that are started from now on leave them out")
