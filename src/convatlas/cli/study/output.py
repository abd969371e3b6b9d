"""A study's report on the terminal."""

from pathlib import Path

from convatlas.cli.output import paragraph, print_table
from convatlas.errors import printable
from convatlas.studies.render import UNITS, format_interval
from convatlas.studies.report import Report, cost_sentence, verdict_sentence


def print_report(report: Report, page: Path) -> None:
    study = report.study
    print(f"{study.id}  {study.question}")
    print(f"scale {report.scale}, {report.data}, {len(report.seeds)} training seeds")
    print()
    metrics = report.shown_metrics
    cells = [
        (name, *(format_interval(report.interval(name, metric)) for metric in metrics))
        for name in study.arms_at(report.scale)
    ]
    columns = tuple(UNITS.get(metric, metric) for metric in metrics)
    print_table(("arm", *columns), cells, right=columns)
    print()
    for judgement in report.judgements:
        paragraph(f"{judgement.verdict:<13} {judgement.claim}  ({verdict_sentence(judgement)})", 14)
    for arm, messages in report.failures.items():
        for message in messages:
            paragraph(f"{arm}: {printable(message)}", 2)
    print(f"{cost_sentence(report)}; report {printable(page)}")
