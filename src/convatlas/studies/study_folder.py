"""A study's folder ROOT/ID-SCALE: its record and its report. The results of all studies are beside it."""

from pathlib import Path
from typing import Any

from convatlas.analysis import analyze
from convatlas.errors import UsageError, printable
from convatlas.runtime.device import select_device
from convatlas.storage.atomic import atomic_write
from convatlas.storage.records import Record, diff, from_json, to_json
from convatlas.studies.papers import get_study
from convatlas.studies.render import write_report
from convatlas.studies.report import Report
from convatlas.studies.run_study import StudyRuns
from convatlas.studies.study import Study
from convatlas.training.planning.workload import workload
from convatlas.training.resolve import resolve_run

FILE = "study.json"


class StudyFile(Record, frozen=True, kw_only=True):
    """What a study's folder belongs to, with the verdicts of its report."""

    study: Study
    scale: str
    seeds: tuple[int, ...]
    data: str
    verdicts: tuple[str, ...] = ()


def study_folder(root: Path, id: str, scale: str) -> Path:
    return root / f"{id}-{scale}"


def write_study(report: Report, root: Path) -> Path:
    """Write the folder; returns the page."""
    folder = study_folder(root, report.study.id, report.scale)
    page = write_report(report, folder)
    verdicts = tuple(judgement.verdict for judgement in report.judgements)
    file = StudyFile(
        study=report.study, scale=report.scale, seeds=report.seeds, data=report.data, verdicts=verdicts
    )
    atomic_write(folder / FILE, to_json(file, indent=1))
    return page


def open_study(folder: Path) -> StudyRuns:
    """The runs of a study's folder. Raises UsageError for a folder of none, or of another version of the
    study, with the first difference."""
    file = _read(folder)
    study = get_study(file.study.id)
    if differences := diff(file.study, study):
        raise UsageError(
            f"{printable(folder)} holds another version of {study.id}: {differences[0]}; run the study again"
        )
    data = "" if file.data == study.scale(file.scale).data else file.data
    return StudyRuns.of(study, file.scale, file.seeds, data, folder.parent)


def _read(folder: Path) -> StudyFile:
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{printable(folder)} holds no {FILE}: expected a study's folder, ID-SCALE")
    return from_json(path.read_bytes(), StudyFile, printable(path))


def stored_verdicts(root: Path, id: str) -> dict[str, list[str]]:
    """The verdicts of a study's claims by scale, where it was run."""
    study = get_study(id)
    folders = {scale: study_folder(root, id, scale) for scale in study.scales}
    return {
        scale: list(_read(folder).verdicts) for scale, folder in folders.items() if (folder / FILE).is_file()
    }


def plan_document(study: Study, scale: str, seeds: int | None, data: str, root: Path) -> dict[str, Any]:
    """What running a study would take."""
    runs = StudyRuns.of(study, scale, range(seeds or study.scale(scale).seeds), data, root)
    tasks = runs.tasks()
    total = len({run.id for by_seed in runs.runs.values() for run in by_seed.values()})
    macs = 0
    for task in tasks:
        resolved = resolve_run(task.run, select_device("cpu"))
        work = workload(resolved.run)
        report = analyze(resolved.network, resolved.run.content.preprocessing.shape)
        macs += 3 * report.macs * work.batch * work.steps
    return {"id": study.id, "scale": scale, "runs": total, "done": total - len(tasks), "multiply_adds": macs}
