"""What is measured of networks without training: functions of a seed and an arm's arguments."""

from collections.abc import Callable

from convatlas.studies.measures.shattered_gradients import gradient_correlation

MEASURES: dict[str, Callable[..., dict[str, float]]] = {"gradient_correlation": gradient_correlation}
