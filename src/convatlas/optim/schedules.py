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


class Exponential(Record, frozen=True, tag=True, kw_only=True):
    """Times `factor` at each of `drops` even places: "0.94 every 2 of 100 epochs" is factor=0.94, drops=100 / 2."""

    factor: float
    drops: float

    def __call__(self, progress: float) -> float:
        return float(self.factor ** math.floor(progress * self.drops + 1e-9))


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


class WarmUp(Record, frozen=True, tag=True, kw_only=True):
    """`after`, times a factor that rises from `start` to 1 in a line over the first `rise` of the way (arXiv:1706.02677, sec. 2.2)."""

    rise: float
    after: Constant | Steps | OneCycle | Exponential | Polynomial | Cosine
    start: float = 0.0

    def __call__(self, progress: float) -> float:
        factor = self.start + (1 - self.start) * progress / self.rise if progress < self.rise else 1.0
        return factor * self.after(progress)


Schedule = Constant | Steps | OneCycle | Exponential | Polynomial | Cosine | WarmUp
