"""A study from its record to its report, at the scale that only shows that it runs."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from convatlas.cli.main import main
from convatlas.errors import UsageError
from convatlas.storage.records import to_json
from convatlas.studies import STUDIES, Lower, Study, run_study
from convatlas.studies.render import markdown
from convatlas.studies.run_result import RunResult
from convatlas.studies.run_study import StudyRuns
from convatlas.studies.study import Arm, Scale, expand
from convatlas.studies.study_folder import open_study, stored_verdicts

SMOKE = {"model.arguments.width": 0.25, "recipe.budget.count": 1, "recipe.budget.min_steps": 0}
TINY = Study(
    id="tests.tiny",
    source="no paper",
    question="Does a wider LeNet-5 learn more in an epoch?",
    arms={"narrow": Arm(model="lenet5"), "wide": Arm(model="lenet5", changes={"model.arguments.width": 1.0})},
    claims=(Lower(a="wide", b="narrow", metric="test_error"),),
    scales={"smoke": Scale(data="digits", recipe="quick", changes=SMOKE)},
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a study was run by the command."""
    root = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STUDIES, TINY.id, TINY)
        assert main(["study", "run", TINY.id, "--scale", "smoke", "--seeds", "2", "--out", str(root)]) == 0
    return root


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDIES, TINY.id, TINY)


def test_the_page_shows_arms_claims_and_reductions(root: Path) -> None:
    folder = root / "tests.tiny-smoke"
    page = (folder / "report.md").read_text()
    assert page.startswith(f"# tests.tiny: {TINY.question}\n")
    assert re.search(r"\| test_error: wide < narrow \|.*\*\*inconclusive\*\*.*2 seeds give no interval", page)
    assert re.search(r"\| narrow \| [\d.]+ \([\d.-]+ to [\d.]+\) \|", page)
    with Image.open(folder / "plot.png") as plot:
        assert plot.width > 500


def test_a_study_that_has_run_is_read_and_judged_again(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convatlas.studies.execute.WorkerProcess", None)  # nothing may be trained
    report = run_study(TINY, "smoke", 2, root=root)
    before = (root / "tests.tiny-smoke" / "report.json").read_bytes()
    capsys.readouterr()
    assert main(["study", "report", str(root / "tests.tiny-smoke"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["arms"] == report.document()["arms"]
    assert document["claims"][0]["verdict"] == "inconclusive"
    assert (root / "tests.tiny-smoke" / "report.json").read_bytes() == before
    assert stored_verdicts(root, TINY.id) == {"smoke": ["inconclusive"]}


def test_another_version_of_a_study_is_refused_with_the_difference(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STUDIES, TINY.id, TINY.replace(question="Another?"))
    with pytest.raises(UsageError, match=r"another version of tests\.tiny: question: .*run the study again"):
        open_study(root / "tests.tiny-smoke")


def test_a_plan_counts_what_is_missing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["study", "run", TINY.id, "--scale", "smoke", "--seeds", "3", "--out", str(root)]
    assert main([*arguments, "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["runs"], document["done"]) == (6, 4)
    assert document["multiply_adds"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["show", "resnet.degradatio"],
            "unknown study 'resnet.degradatio': the nearest is 'resnet.degradation'",
        ),
        (["run", "tests.tiny", "--scale", "smal"], "unknown scale 'smal'"),
        (["run", "tests.tiny", "--scale", "smoke", "--seeds", "0"], "--seeds should be 1 or more"),
        (["run", "tests.tiny", "--scale", "smoke", "--data", "folder:nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere holds no study.json"),
    ],
)
def test_what_does_not_exist_is_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--out", str(tmp_path)] if arguments[0] == "run" else []
    assert main(["study", *arguments, *options]) in (1, 2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.id)
def test_every_arm_of_every_study_is_a_run_at_every_scale(study: Study) -> None:
    for scale in study.scales:
        runs = expand(study, scale, seed=0)
        trained = [name for name, arm in study.arms_at(scale).items() if isinstance(arm, Arm)]
        assert list(runs) == trained
        assert len({run.id for run in runs.values()}) == len(runs)


def test_all_studies_run_at_smoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every arm of every study trains, or is measured, and every claim can be judged. Runs that several
    studies share are trained once."""
    monkeypatch.delitem(STUDIES, TINY.id)
    for study in STUDIES.values():
        report = run_study(study, "smoke", seeds=1, root=tmp_path)
        assert not any(report.failures.values()), report.failures
        assert {item.verdict for item in report.judgements} <= {"inconclusive", "supported", "contradicted"}
    runs = {run.id for study in STUDIES.values() for run in expand(study, "smoke", 0).values()}
    assert len(list((tmp_path / "results").iterdir())) == len(runs)


def test_a_run_that_failed_is_named_in_the_report_and_tried_again(tmp_path: Path) -> None:
    runs = StudyRuns.of(TINY, "smoke", [0], "", tmp_path)
    (tmp_path / "results").mkdir()
    run = runs.runs["wide"][0]
    failed = RunResult(run=run.id, outcome="failed", seconds=0.0, steps=0, message="no memory")
    runs.result_file(run).write_bytes(to_json(failed))
    report = runs.report()
    assert report.failures["wide"] == ["seed 0 failed: no memory"]
    assert "- wide, seed 0 failed: no memory" in markdown(report)
    assert report.judgements[0].verdict == "not run"
    assert run in [task.run for task in runs.tasks()]


def test_a_claim_of_an_arm_that_is_not_there_is_an_error_of_the_record() -> None:
    with pytest.raises(ValueError, match=r"tests\.tiny has no arm other"):
        TINY.replace(claims=(Lower(a="other", b="wide", metric="test_error"),))
