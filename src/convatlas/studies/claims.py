"""What a study claims of its arms, before anything runs. judge.py settles it."""

from typing import Literal

from convatlas.storage.records import Record


class Claim(Record, frozen=True, kw_only=True):
    """`source` is the paper's sentence or figures, as printed; `metric` a name of metrics.py."""

    metric: str
    source: str = ""


class PairClaim(Claim, frozen=True, kw_only=True):
    """A claim about the metrics of the arms `a` and `b`."""

    a: str
    b: str

    @property
    def arms(self) -> tuple[str, ...]:
        return self.a, self.b


class Lower(PairClaim, frozen=True, tag=True, kw_only=True):
    """The metric of `a` is lower than that of `b`."""

    def __str__(self) -> str:
        return f"{self.metric}: {self.a} < {self.b}"


class Equal(PairClaim, frozen=True, tag=True, kw_only=True):
    """The metrics of `a` and `b` differ by at most `within`."""

    within: float

    def __str__(self) -> str:
        return f"{self.metric}: {self.a} = {self.b} within {self.within:g}"


class Value(Claim, frozen=True, tag=True, kw_only=True):
    """The metric of `a` is `value`, to `within`."""

    a: str
    value: float
    within: float

    @property
    def arms(self) -> tuple[str, ...]:
        return (self.a,)

    def __str__(self) -> str:
        return f"{self.metric}: {self.a} is {self.value:.3g} within {self.within:g}"


class Ordered(Claim, frozen=True, tag=True, kw_only=True):
    """The metric rises from each of the arms to the next."""

    arms: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.metric}: {' < '.join(self.arms)}"


class Slope(Claim, frozen=True, tag=True, kw_only=True):
    """The metric rises, or falls, with `x`: least squares over the arms, a slope for each seed."""

    x: dict[str, float]  # of each arm
    sign: Literal["rises", "falls"]

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(self.x)

    def __str__(self) -> str:
        return f"{self.metric}: {self.sign} over {', '.join(self.x)}"


class Ratio(PairClaim, frozen=True, tag=True, kw_only=True):
    """Arithmetic: the metric of `a`, which the analysis computes, is `ratio` times that of `b`, to `within`
    of it."""

    ratio: float
    within: float

    def __str__(self) -> str:
        return f"{self.metric}: {self.a} = {self.ratio:g} {self.b}"


AnyClaim = Lower | Equal | Value | Ordered | Slope | Ratio
