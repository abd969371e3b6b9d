"""Learning-rate schedules: pure functions of progress, from 0 at the first step towards 1 after the last. Each returns a factor."""

import math

from convatlas.storage.records import Record


class Constant(Record, frozen=True, tag=True):
    def __call__(self, progress: float) -> float:
        return 1.0


class Steps(Record, frozen=True, tag=True, kw_only=True):
    """`factors[i]` from progress `at[i]` on; 1 before the first. Warm-up (He 2015, sec. 4.2) is a first factor at 0."""

    at: tuple[float, ...]
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.at) != len(self.factors) or list(self.at) != sorted(self.at):
            raise ValueError(f"a step schedule needs as many factors as increasing places, not {self.factors} at {self.at}")

    def __call__(self, progress: float) -> float:
        passed = [factor for place, factor in zip(self.at, self.factors, strict=True) if progress >= place]
        return passed[-1] if passed else 1.0


class OneCycle(Record, frozen=True, tag=True, kw_only=True):
    """Linear from `start` to 1 over the first `rise` of the way, then to `end` along half a cosine (arXiv:1708.07120)."""

    rise: float = 0.25
    start: float = 0.04
    end: float = 0.0

    def __call__(self, progress: float) -> float:
        if progress < self.rise:
            return self.start + (1 - self.start) * progress / self.rise
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * (progress - self.rise) / (1 - self.rise))) / 2


Schedule = Constant | Steps | OneCycle
