"""`study list`: the studies with their questions, and the verdicts of those that were run here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from convatlas.cli.arguments import Json, arg
from convatlas.cli.output import print_json, print_table


@dataclass
class StudyList:
    """List the studies: the paper's question, and the verdicts where a study was run."""

    out: Annotated[Path | None, arg(metavar="DIR", help="Where studies were run; default runs/studies.")] = (
        None
    )
    json: Json = False

    def __call__(self) -> None:
        from convatlas.studies.papers import STUDIES
        from convatlas.studies.run_study import DEFAULT_ROOT
        from convatlas.studies.study_folder import stored_verdicts

        rows: list[dict[str, Any]] = [
            {
                "id": study.id,
                "source": study.source,
                "question": study.question,
                "verdicts": stored_verdicts(self.out or DEFAULT_ROOT, study.id),
            }
            for study in STUDIES.values()
        ]
        if self.json:
            print_json(rows)
            return
        cells = [(row["id"], row["source"], row["question"], _describe(row["verdicts"])) for row in rows]
        print_table(("study", "source", "question", "verdicts"), cells)


def _describe(verdicts: dict[str, list[str]]) -> str:
    """`small: 3 supported, 1 inconclusive`."""
    scales = []
    for scale, of_claims in verdicts.items():
        counts = {verdict: of_claims.count(verdict) for verdict in dict.fromkeys(of_claims)}
        scales.append(f"{scale}: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}")
    return "; ".join(scales) or "-"
