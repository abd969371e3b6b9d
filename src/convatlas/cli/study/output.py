"""A study's report on the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING

from convatlas.cli.output import paragraph, print_table
from convatlas.errors import printable

if TYPE_CHECKING:
    from convatlas.studies import Report


def print_report(report: "Report", page: Path) -> None:
    from convatlas.studies.render import arms_table
    from convatlas.studies.report import cost_sentence, verdict_sentence

    study = report.study
    print(f"{study.id}  {study.question}")
    parts = [f"scale {report.scale}", report.data, f"{len(report.seeds)} seeds"]
    print(", ".join(part for part in parts if part))
    print()
    columns, cells = arms_table(report)
    print_table(columns, cells, right=columns[1:])
    print()
    for judgement in report.judgements:
        paragraph(f"{judgement.verdict:<13} {judgement.claim}  ({verdict_sentence(judgement)})", 14)
    for arm, messages in report.failures.items():
        for message in messages:
            paragraph(f"{arm}: {printable(message)}", 2)
    print(f"{cost_sentence(report)}; report {printable(page)}")
