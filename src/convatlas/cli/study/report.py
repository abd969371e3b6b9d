"""`study report`: the report of a study that was run, from its results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from convatlas.cli.arguments import Json, arg
from convatlas.cli.output import print_json
from convatlas.cli.study.output import print_report


@dataclass
class StudyReport:
    """Judge a study again from its results, and write its report."""

    folder: Annotated[
        Positional[Path],
        arg(metavar="DIR", help="A study's folder, such as runs/studies/resnet.degradation-small."),
    ]
    json: Json = False

    def __call__(self) -> None:
        from convatlas.studies.study_folder import open_study, write_study

        runs = open_study(self.folder)
        report = runs.report()
        page = write_study(report, runs.root)
        if self.json:
            print_json(report.document() | {"report": str(page)})
            return
        print_report(report, page)
