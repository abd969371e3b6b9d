"""What is kept of a run of a study: its test errors by image, its curves, its cost; some kilobytes a run."""

import base64
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convatlas.evaluation import metrics
from convatlas.evaluation.predictions import Predictions
from convatlas.storage.records import Record
from convatlas.training.context import TrainContext

FORMAT = 1
MAX_POINTS = 200  # of a curve


class Point(Record, frozen=True, kw_only=True):
    """Scores at a step: of the training images as they were trained on ("train"), of the validation images
    ("val"), or what a probe measured (its name)."""

    step: int
    source: str
    values: dict[str, Any]


class RunResult(Record, frozen=True, kw_only=True):
    """`outcome`: a run that "diverged" had a loss that is not finite, one that "failed" says why in
    `message`.

    `test`: the scores of the test split, in percent, and its mean loss. `wrong` has a bit for each of the
    `num_test` test images, in the split's order, 1 where the network is wrong; "" where the task has no such.
    """

    run: str
    outcome: Literal["ended", "diverged", "failed"]
    seconds: float
    steps: int
    environment: dict[str, str | int | bool] = {}
    message: str = ""
    test: dict[str, float] = {}
    wrong: str = ""
    num_test: int = 0
    points: tuple[Point, ...] = ()
    format: int = FORMAT

    def wrong_by_image(self) -> NDArray[np.bool_] | None:
        """(num_test,)"""
        if not self.num_test:
            return None
        packed = np.frombuffer(base64.b64decode(self.wrong), np.uint8)
        return np.unpackbits(packed, count=self.num_test).astype(bool)

    def curve(self, source: str, key: str) -> list[tuple[int, Any]]:
        """(step, value) of the points of a source."""
        return [(point.step, point.values[key]) for point in self.points if point.source == source]


def collect_result(ctx: TrainContext, predictions: Any, seconds: float) -> RunResult:
    """The result of a run that has ended."""
    wrong, num_test = "", 0
    if isinstance(predictions, Predictions):
        is_wrong = ~metrics.correct(predictions.logits, predictions.labels)
        wrong, num_test = base64.b64encode(np.packbits(is_wrong).tobytes()).decode(), len(is_wrong)
    return RunResult(
        run=ctx.run.id,
        outcome="ended",
        seconds=round(seconds, 2),
        steps=ctx.run.steps,
        environment=dict(ctx.folder.run_file.environment),
        test=dict(ctx.task.scores(predictions)),
        wrong=wrong,
        num_test=num_test,
        points=read_points(ctx.log.lines()),
    )


def read_points(lines: list[dict[str, Any]]) -> tuple[Point, ...]:
    """The curves of a log; of the training's at most 200 points, evenly chosen."""
    points = []
    for line in lines:
        source = line.get("probe") or line.get("split")
        if source is None or source == "test":
            continue
        left_out = ("step", "epoch", "split", "event", "probe", "hash", "n", "lr")
        values = {key: value for key, value in line.items() if key not in left_out}
        points.append(Point(step=line["step"], source=source, values=values))
    of_training = [index for index, point in enumerate(points) if point.source == "train"]
    kept = np.linspace(0, len(of_training) - 1, min(len(of_training), MAX_POINTS)).round().astype(int)
    dropped = set(of_training) - {of_training[position] for position in kept}
    return tuple(point for index, point in enumerate(points) if index not in dropped)
