"""Learning-rate schedules: pure functions of progress, from 0 at the first step to 1 after the last.

Each returns a factor of the learning rate.
"""

import math

from convatlas.storage.records import Record


class Constant(Record, frozen=True, tag=True):
    def __call__(self, progress: float) -> float:
        return 1.0


class MultiStep(Record, frozen=True, tag=True, kw_only=True):
    """`factors[i]` from progress `milestones[i]` on; 1 before the first. A factor at 0 gives the warm-up of
    He 2015, sec. 4.2."""

    milestones: tuple[float, ...]
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.milestones) != len(self.factors) or list(self.milestones) != sorted(self.milestones):
            raise ValueError(
                "a step schedule needs increasing milestones and as many factors, not "
                f"{self.factors} at {self.milestones}"
            )

    def __call__(self, progress: float) -> float:
        pairs = zip(self.milestones, self.factors, strict=True)
        reached = [factor for milestone, factor in pairs if progress >= milestone]
        return reached[-1] if reached else 1.0


class OneCycle(Record, frozen=True, tag=True, kw_only=True):
    """Linear from `start` to 1 until progress `warmup_fraction`, then to `end` along half a cosine
    (arXiv:1708.07120)."""

    warmup_fraction: float = 0.25
    start: float = 0.04
    end: float = 0.0

    def __call__(self, progress: float) -> float:
        if progress < self.warmup_fraction:
            return self.start + (1 - self.start) * progress / self.warmup_fraction
        angle = math.pi * (progress - self.warmup_fraction) / (1 - self.warmup_fraction)
        return self.end + (1 - self.end) * (1 + math.cos(angle)) / 2


class StepDecay(Record, frozen=True, tag=True, kw_only=True):
    """Multiply by `factor` at `num_drops` evenly spaced positions: "0.94 every 2 of 100 epochs" is
    factor=0.94, num_drops=100 / 2."""

    factor: float
    num_drops: float

    def __call__(self, progress: float) -> float:
        return float(self.factor ** math.floor(progress * self.num_drops + 1e-9))


class Polynomial(Record, frozen=True, tag=True, kw_only=True):
    """From 1 to `end` along (1 - progress) to the `power`; linear with power 1 (arXiv:1707.01083, sec. 4)."""

    power: float = 1.0
    end: float = 0.0

    def __call__(self, progress: float) -> float:
        return float(self.end + (1 - self.end) * (1 - progress) ** self.power)


class Cosine(Record, frozen=True, tag=True, kw_only=True):
    """From 1 to `end` along half a cosine (arXiv:1608.03983, eq. 5, without restarts)."""

    end: float = 0.0

    def __call__(self, progress: float) -> float:
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2


class LinearWarmup(Record, frozen=True, tag=True, kw_only=True):
    """`after`, times a factor that rises linearly from `start` to 1 until progress `fraction`
    (arXiv:1706.02677, sec. 2.2)."""

    fraction: float
    after: Constant | MultiStep | OneCycle | StepDecay | Polynomial | Cosine
    start: float = 0.0

    def __call__(self, progress: float) -> float:
        if progress >= self.fraction:
            return self.after(progress)
        return (self.start + (1 - self.start) * progress / self.fraction) * self.after(progress)


Schedule = Constant | MultiStep | OneCycle | StepDecay | Polynomial | Cosine | LinearWarmup
