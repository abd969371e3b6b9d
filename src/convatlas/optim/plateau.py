"""Dividing the rate where the validation error stands still: what people did by hand, as a pure function of what has been seen."""

import math

from convatlas.storage.records import Record


class Watch(Record, frozen=True, kw_only=True):
    """What a plateau has seen: the best value, for how many values none was better, how often the rate was divided."""

    best: float | None = None
    bad_epochs: int = 0
    num_drops: int = 0


class Plateau(Record, frozen=True, kw_only=True):
    """The rate times `factor` whenever more than `patience` values in a row were not better than the best by more than its `threshold`
    part; at `most` so often (None: without end)."""

    factor: float = 0.1
    patience: int = 5
    threshold: float = 0.0
    most: int | None = None

    def next(self, watch: Watch, value: float) -> Watch:
        """After another value, of which less is better."""
        best = math.inf if watch.best is None else watch.best
        if value < best * (1 - self.threshold):  # which NaN is not, even at first
            return watch.replace(best=value, bad_epochs=0)
        if watch.bad_epochs < self.patience:
            return watch.replace(bad_epochs=watch.bad_epochs + 1)
        drops = watch.num_drops + 1 if self.most is None else min(watch.num_drops + 1, self.most)
        return watch.replace(bad_epochs=0, num_drops=drops)

    def rate(self, watch: Watch) -> float:
        """The factor that the rate has now."""
        return float(self.factor**watch.num_drops)
