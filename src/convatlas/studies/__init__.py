"""The papers' own experiments as records: expanded to runs, run, judged, rendered."""

from pathlib import Path

from convatlas.studies.claims import Equal, Lower, Ordered, Ratio, Slope
from convatlas.studies.judge import judge
from convatlas.studies.papers import STUDIES, get_study
from convatlas.studies.report import Report
from convatlas.studies.run_study import DEFAULT_ROOT, run_study
from convatlas.studies.study import Arm, Scale, Study

__all__ = [
    "STUDIES",
    "Arm",
    "Equal",
    "Lower",
    "Ordered",
    "Ratio",
    "Report",
    "Scale",
    "Slope",
    "Study",
    "get_study",
    "judge",
    "run",
    "run_study",
]


def run(
    id: str, scale: str = "small", seeds: int | None = None, data: str = "", root: str | Path = DEFAULT_ROOT
) -> Report:
    """Run a study by its id, as `run_study`; what has run before is read. Raises UsageError for a study that
    does not exist, and names the nearest."""
    return run_study(get_study(id), scale, seeds, data, Path(root))
