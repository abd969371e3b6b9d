"""`study run`: train what is missing, judge the claims."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from convatlas.cli.arguments import Json, arg
from convatlas.cli.output import display, print_json
from convatlas.cli.study.output import print_report


@dataclass
class StudyRun:
    """Run a study: its arms with several seeds, side by side; then judge its claims. A study that was stopped
    continues."""

    id: Annotated[Positional[str], arg(metavar="ID", help="A study: convatlas study list.")]
    scale: Annotated[str, arg(help="smoke, small, medium or paper, as the study has them.")] = "small"
    seeds: Annotated[
        int | None, arg(metavar="N", help="Training seeds of each arm; default the scale's, mostly 3.")
    ] = None
    data: Annotated[str, arg(help="Your own data in place of the scale's.")] = ""
    out: Annotated[Path | None, arg(metavar="DIR", help="Where results are kept; default runs/studies.")] = (
        None
    )
    dry_run: Annotated[bool, arg(help="Say what would be trained, and train nothing.")] = False
    json: Json = False

    def __call__(self) -> None:
        progress = display(self.json)
        progress.say("convatlas: loading PyTorch")
        from convatlas.studies.papers import get_study
        from convatlas.studies.run_study import DEFAULT_ROOT, run_study
        from convatlas.studies.study_folder import plan_document, write_study

        study = get_study(self.id)
        root = self.out or DEFAULT_ROOT
        if self.dry_run:
            document = plan_document(study, self.scale, self.seeds, self.data, root)
            if self.json:
                print_json(document)
                return
            print(
                f"{document['runs']} runs, {document['done']} of them with a result; the others take "
                f"{document['multiply_adds'] / 1e12:,.1f}e12 multiply-adds of training"
            )
            return
        report = run_study(study, self.scale, self.seeds, self.data, root, progress.say)
        page = write_study(report, root)
        if self.json:
            print_json(report.document() | {"report": str(page)})
            return
        print_report(report, page)
