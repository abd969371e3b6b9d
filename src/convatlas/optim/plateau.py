"""Dividing the learning rate when the validation error stops improving, as a pure function of the errors so
far.

The authors of several papers did this by hand.
"""

import math

from convatlas.storage.records import Record


class PlateauState(Record, frozen=True, kw_only=True):
    """The state of a plateau: the best value, the values since then, and how often the rate was divided."""

    best: float | None = None
    bad_epochs: int = 0
    num_drops: int = 0


class ReduceOnPlateau(Record, frozen=True, kw_only=True):
    """Multiply the rate by `factor` whenever more than `patience` values in a row did not improve on the
    best.

    A value improves when it is below the best times 1 - `threshold`. The rate is multiplied at most `most`
    times (None: no limit).
    """

    factor: float = 0.1
    patience: int = 5
    threshold: float = 0.0
    most: int | None = None

    def next_state(self, state: PlateauState, value: float) -> PlateauState:
        """The state after another value; lower values are better."""
        best = math.inf if state.best is None else state.best
        if value < best * (1 - self.threshold):  # false for NaN, even as the first value
            return state.replace(best=value, bad_epochs=0)
        if state.bad_epochs < self.patience:
            return state.replace(bad_epochs=state.bad_epochs + 1)
        drops = state.num_drops + 1 if self.most is None else min(state.num_drops + 1, self.most)
        return state.replace(bad_epochs=0, num_drops=drops)

    def lr_factor(self, state: PlateauState) -> float:
        """The factor of the learning rate in this state."""
        return float(self.factor**state.num_drops)
