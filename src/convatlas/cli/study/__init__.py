"""`study`: the papers' own experiments."""

from typing import Any, ClassVar

from convatlas.cli.study.list import StudyList
from convatlas.cli.study.report import StudyReport
from convatlas.cli.study.run import StudyRun
from convatlas.cli.study.show import StudyShow


class Study:
    """Ask a paper's question again: list the studies, show what one compares, run it, read its report."""

    commands: ClassVar[dict[str, Any]] = {
        "list": StudyList,
        "show": StudyShow,
        "run": StudyRun,
        "report": StudyReport,
    }
