"""A study: one of a paper's questions as data."""

from collections.abc import Mapping
from typing import Any

from convatlas.errors import UsageError, unknown_name
from convatlas.storage.records import Record, encode_json
from convatlas.studies.claims import AnyClaim
from convatlas.training.options import run_from_options
from convatlas.training.run import Run


class Arm(Record, frozen=True, tag=True, kw_only=True):
    """A network and what differs in its run: fields of the run by their paths, as `--set` takes them.

    `printed`: the paper's values of its metrics.
    """

    model: str
    edition: str = "paper"
    changes: Mapping[str, Any] = {}
    printed: Mapping[str, float] = {}


class UntrainedArm(Record, frozen=True, tag=True, kw_only=True):
    """What is measured without training: a function of `measures.MEASURES` with its arguments; a seed draws
    the weights."""

    measure: str
    arguments: Mapping[str, Any] = {}
    printed: Mapping[str, float] = {}


AnyArm = Arm | UntrainedArm


class Scale(Record, frozen=True, kw_only=True):
    """How large the arms' runs are. `reduced` names each reduction of the paper's; `changes` are fields of
    every run; `arms` those that are trained at this scale (empty: all); `seeds` how many, by default."""

    data: str = ""
    recipe: str = "quick"
    changes: Mapping[str, Any] = {}
    reduced: Mapping[str, str] = {}
    arms: tuple[str, ...] = ()
    seeds: int = 3


class Study(Record, frozen=True, kw_only=True):
    """`id` is "paper.name"; `source` a table or a figure; `metric` the one of the report's plot."""

    id: str
    source: str
    question: str
    arms: Mapping[str, AnyArm]
    claims: tuple[AnyClaim, ...]
    scales: Mapping[str, Scale]
    metric: str = "test_error"

    def __post_init__(self) -> None:
        """Raise ValueError for a claim or a scale of an arm that is not there."""
        named = [arm for claim in self.claims for arm in claim.arms]
        named += [arm for scale in self.scales.values() for arm in scale.arms]
        for arm in named:
            if arm not in self.arms:
                raise ValueError(f"{self.id} has no arm {arm}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The study's own metric first, then those of its claims and of the paper's values."""
        claimed = [claim.metric for claim in self.claims]
        printed = [metric for arm in self.arms.values() for metric in arm.printed]
        return tuple(dict.fromkeys([self.metric, *claimed, *printed]))

    def scale(self, name: str) -> Scale:
        """Raises UsageError for another scale than the study has."""
        if name not in self.scales:
            raise unknown_name("scale", name, self.scales)
        return self.scales[name]

    def arms_at(self, scale: str) -> dict[str, AnyArm]:
        names = self.scale(scale).arms or tuple(self.arms)
        return {name: self.arms[name] for name in names}


def expand(study: Study, scale_name: str, seed: int, data: str = "") -> dict[str, Run]:
    """The run of each arm that is trained, with a training seed. `data` replaces the scale's.

    Raises UsageError for an arm that the data or the network do not allow.
    """
    scale = study.scale(scale_name)
    arms = study.arms_at(scale_name).items()
    return {name: _run_of(study, name, arm, scale, seed, data) for name, arm in arms if isinstance(arm, Arm)}


def _run_of(study: Study, name: str, arm: Arm, scale: Scale, seed: int, data: str) -> Run:
    changes = {**scale.changes, **arm.changes}
    overrides = [f"{path}={encode_json(value).decode()}" for path, value in changes.items()]
    try:
        return run_from_options(
            arm.model, data or scale.data, arm.edition, scale.recipe, seed, overrides=overrides
        ).run
    except UsageError as error:
        raise UsageError(f"arm {name} of {study.id}: {error}") from None
