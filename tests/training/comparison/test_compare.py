"""Runs beside each other: what differs, who was right on the same samples, the picture, the words."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from helpers.small_runs import small_run
from PIL import Image

import convatlas as ca
from convatlas.cli.main import main
from convatlas.data import open_dataset
from convatlas.errors import UserError
from convatlas.evaluation import predictions
from convatlas.evaluation.predictions import PredictionsMetadata, StoredPredictions
from convatlas.evaluation.significance import (
    Correctness,
    correctness,
    interval,
    mcnemar,
    paired_comparison,
    pairing_problem,
)
from convatlas.optim.optimizers import SGD
from convatlas.storage import checked_safetensors
from convatlas.training.comparison import compare, curves
from convatlas.training.run import RunFile

CARD = PredictionsMetadata(format=1, run="0" * 64, data="digits", digest="d", split="test", crops="center", classes=("a", "b"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs that differ in their seed."""
    runs = tmp_path_factory.mktemp("compared") / "runs"
    return [ca.train(small_run(seed, epochs=1), out=runs / f"seed{seed}").out for seed in range(3)]


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def cut(folder: Path, lines: int) -> Path:
    """As a run that was stopped while it wrote a line."""
    kept = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:lines]
    (folder / "metrics.jsonl").write_bytes(b"".join(kept) + b'{"step": 1')
    return folder


def test_the_answers_are_kept_beside_the_run(three: list[Path]) -> None:
    kept, data = predictions.read_predictions(three[0] / "test.safetensors"), open_dataset("digits")
    found = ca.evaluate(ca.load(three[0]))
    assert kept.metadata.run == compare.read_run(three[0]).run.id
    assert (kept.metadata.digest, kept.metadata.classes, kept.metadata.split, kept.metadata.crops) == (
        data.sha256,
        data.classes,
        "test",
        "center",
    )
    assert kept.indices.tolist() == list(range(180))
    assert np.array_equal(kept.labels, data.splits["test"].labels)
    assert 100 * np.mean(kept.logits.argmax(1) == kept.labels) == pytest.approx(found["top1"])


@pytest.mark.parametrize(
    ("tensors", "document", "message"),
    [
        ({}, {"format": 2}, "format version 2: this ConvAtlas reads version 1"),
        ({}, {"surprise": 1}, "unknown field `surprise`"),
        ({}, {"classes": ["a"]}, "1 logits, a label and an index"),
        ({"logits": torch.zeros(2, 2, dtype=torch.float16)}, {}, "logits .float32."),
        ({"more": torch.zeros(1)}, {}, "nothing else"),
        ({"logits": torch.zeros(3, 2)}, {}, "2 logits, a label and an index"),
        ({"indices": torch.tensor([0, 1, 2])}, {}, "2 logits, a label and an index"),
        ({"logits": torch.tensor([[0, torch.nan], [0, 0]])}, {}, "not finite"),
        ({"labels": torch.tensor([0, 2])}, {}, "labels below 2"),
        ({"indices": torch.tensor([5, 5])}, {}, "once in the split's order"),
        ({"indices": torch.tensor([-1, 5])}, {}, "once in the split's order"),
    ],
)
def test_answers_that_say_what_cannot_be_are_refused(
    tensors: dict[str, torch.Tensor], document: dict[str, object], message: str, tmp_path: Path
) -> None:
    good = {"logits": torch.zeros(2, 2), "labels": torch.tensor([0, 1]), "indices": torch.tensor([3, 5])}
    file = tmp_path / "test.safetensors"
    checked_safetensors.write_checked(file, good, CARD)
    assert predictions.read_predictions(file).indices.tolist() == [3, 5]
    checked_safetensors.write_checked(file, good | tensors, msgspec.to_builtins(CARD) | document)
    with pytest.raises(UserError, match=message):
        predictions.read_predictions(file)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar(12, 2) == pytest.approx(0.0129, abs=5e-5)  # Armitage & Berry 1994, p. 127, as StatsDirect's manual computes it
    assert mcnemar(0, 0) == 1
    for first, second in ((3, 3), (0, 5), (210, 252), (40, 20)):
        n = first + second
        tail = sum(math.comb(n, k) for k in range(min(first, second) + 1)) / 2**n
        assert mcnemar(first, second) == pytest.approx(min(1, 2 * tail))


def test_the_interval_is_agresti_and_mins() -> None:
    # The example of R's PropCIs::diffpropci.mp: 40 and 20 discordant of 160 pairs
    assert interval(40, 20, 160) == pytest.approx((-21.6017, -3.0896), abs=1e-4)
    for first, second, n in ((40, 20, 160), (0, 0, 30), (7, 0, 7), (3, 90, 1000)):
        # Half a sample more in each cell, as a list of n + 2 differences at half weight each
        differences = np.repeat([-1.0, 1.0, 0.0], [2 * first + 1, 2 * second + 1, 2 * (n - first - second) + 2])
        centre, reach = differences.mean(), 1.959964 * differences.std() / math.sqrt(n + 2)
        expected = 100 * max(centre - reach, -1), 100 * min(centre + reach, 1)
        assert interval(first, second, n) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("n", "first", "second"), [(100, 0.05, 0.10), (180, 0.15, 0.12), (1000, 0.02, 0.02), (60, 0.02, 0.05)])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int, first: float, second: float) -> None:
    draws = np.random.default_rng(0).multinomial(n, [first, second, 1 - first - second], size=3000)
    covered = [low <= 100 * (second - first) <= high for low, high in (interval(int(a), int(b), n) for a, b, _ in draws)]
    assert 0.94 < np.mean(covered) < 0.985


def test_pairs_are_of_the_samples_that_both_answered() -> None:
    labels, indices = np.array([0, 0, 1, 1, 0]), np.array([2, 3, 5, 7, 11])
    says = np.eye(2, dtype=np.float32)
    first = correctness(StoredPredictions(CARD, says[[0, 1, 1, 0, 0]], labels, indices))  # right at 2, 5, 11
    second = correctness(StoredPredictions(CARD, says[[0, 1, 0, 1]], np.array([1, 0, 1, 1]), np.array([1, 3, 5, 7])))  # right at 7
    found = paired_comparison(first, second)
    assert (found["n"], found["unshared"]) == (3, 3)  # 3, 5 and 7
    assert (found["both"], found["neither"], found["only_first"], found["only_second"]) == (0, 1, 1, 1)
    assert (found["difference"], found["p"]) == (0, 1)
    assert paired_comparison(first, first) | {"interval": 0} == {
        **dict.fromkeys(("unshared", "only_first", "only_second", "difference", "interval"), 0), "n": 5, "both": 3, "neither": 2, "p": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"run": "1" * 64}, None),
        ({"digest": "e"}, "the content of digits had changed"),
        ({"digest": "e", "data": "mnist"}, "other data: digits and mnist"),
        ({"data": "packed:digits"}, None),
        ({"split": "val"}, "other splits: test and val"),
        ({"crops": "10"}, "other crops: center and 10"),
    ],
)
def test_only_what_saw_the_same_is_paired(changes: dict[str, str], why: str | None) -> None:
    right = np.array([True])
    first = Correctness(CARD, np.array([0]), right)
    assert pairing_problem(first, Correctness(CARD.replace(**changes), np.array([0]), right)) == why
    assert pairing_problem(first, Correctness(CARD, np.array([1]), right)) == "no sample that both could read"


def test_the_differences_are_exactly_the_fields_that_were_changed(three: list[Path]) -> None:
    base = compare.read_run(three[0]).run_file
    recipe = base.run.recipe
    assert compare.differences([base, base]) == []
    optimizer = recipe.optimizer.replace(lr=0.5)
    changed = base.replace(
        run=base.run.replace(seed=7, recipe=recipe.replace(optimizer=optimizer, unstated=("more",), source="elsewhere"), notes=("a note",)),
        environment=dict(base.environment) | {"threads": 99},
    )
    assert compare.differences([base, changed, base]) == [
        {"path": "run.recipe.optimizer.lr", "values": [recipe.optimizer.lr, 0.5, recipe.optimizer.lr]},
        {"path": "run.seed", "values": [0, 7, 0]},
        {"path": "environment.threads", "values": [base.environment["threads"], 99, base.environment["threads"]]},
    ]
    other = RunFile(run=base.run.replace(recipe=recipe.replace(optimizer=SGD(lr=recipe.optimizer.lr))), environment=base.environment)
    by_path = {one["path"]: one["values"] for one in compare.differences([base, other])}
    assert all(path.startswith("run.recipe.optimizer.") for path in by_path)


def test_three_seeds_side_by_side(three: list[Path]) -> None:
    pasts = compare.read_runs(three)
    document = msgspec.json.decode(msgspec.json.encode(compare.compare_runs(pasts)))
    assert {*document} == {"runs", "differences", "paired", "unpaired", "seeds"}
    assert document["differences"] == [{"path": "run.seed", "values": [0, 1, 2]}]
    results = [ca.evaluate(ca.load(path)) for path in three]
    for row, past, result in zip(document["runs"], pasts, results, strict=True):
        assert (row["finished"], row["step"], row["run_id"]) == (True, row["steps"], past.run.id)
        assert (row["test_top1"], row["test_loss"], row["n"]) == (result["top1"], result["loss"], result["n"])
        assert row["test_interval"] == pytest.approx(result["top1_interval"])
        assert row["best_val_top1"] >= row["val_top1"]
        assert row["seconds"] > 0
    tops = [result["top1"] for result in results]
    assert document["seeds"] == [
        {"runs": [0, 1, 2], "top1_mean": pytest.approx(np.mean(tops)), "top1_deviation": pytest.approx(np.std(tops, ddof=1))}
    ]
    assert [one["runs"] for one in document["paired"]] == [[0, 1], [0, 2], [1, 2]]
    answers = [predictions.read_predictions(path / "test.safetensors") for path in three]
    right = [a.logits.argmax(1) == a.labels for a in answers]
    for one in document["paired"]:
        i, j = one["runs"]
        assert one["n"] == one["both"] + one["neither"] + one["only_first"] + one["only_second"] == 180
        assert one["only_second"] == int((right[j] & ~right[i]).sum())
        assert one["difference"] == pytest.approx(tops[j] - tops[i])


def test_a_run_that_stopped_is_compared_as_far_as_it_came(three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped = cut(copied(three[1], tmp_path / "stopped"), 12)
    (stopped / "timing.jsonl").unlink()
    started = copied(three[2], tmp_path / "started")
    (started / "metrics.jsonl").unlink()
    before = copied(three[2], tmp_path / "before")
    (before / "test.safetensors").unlink()
    document = compare.compare_runs(compare.read_runs([three[0], stopped, started, before]))
    assert [row["finished"] for row in document["runs"]] == [True, False, False, True]
    assert 0 < document["runs"][1]["step"] < document["runs"][1]["steps"]
    assert document["runs"][1]["test_top1"] is document["runs"][2]["val_top1"] is None
    assert (document["paired"], document["seeds"]) == ([], [])
    assert [one["runs"] for one in document["unpaired"]] == [[1], [2], [3]]
    assert main(["compare", str(three[0]), str(stopped), str(started), str(before)]) == 0
    said = capsys.readouterr().out
    assert f"B is not finished (step {document['runs'][1]['step']} of" in said
    assert "not paired: B, C (not finished)" in said
    assert "not paired: D (no test.safetensors: trained before answers were kept)" in said


def _other_data(folder: Path) -> None:
    tensors, document = checked_safetensors.read_checked(folder / "test.safetensors")
    checked_safetensors.write_checked(
        folder / "test.safetensors", tensors, json.loads(document) | {"digest": "0" * 64, "data": "bad\x1b]52;"}
    )


def test_other_data_is_not_paired_and_that_is_said(three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copied(three[1], tmp_path / "other\x1b]0;")
    _other_data(other)
    assert main(["compare", str(three[0]), str(other)]) == 0
    said = capsys.readouterr().out
    assert "not paired: A with B (other data: digits and bad" in said
    assert "\x1b" not in said


def _flip(folder: Path) -> None:
    data = bytearray((folder / "test.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "test.safetensors").write_bytes(data)


def _later(folder: Path) -> None:
    document = json.loads((folder / "run.json").read_text())
    document["run"]["format"] = 99
    (folder / "run.json").write_text(json.dumps(document))


def _never_started(folder: Path) -> None:
    document = json.loads((folder / "run.json").read_text())
    document["run"]["data"]["content"] = None
    (folder / "run.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "message", "code"),
    [
        (_flip, "test.safetensors is damaged: its content does not match its SHA-256", 1),
        (lambda folder: (folder / "run.json").unlink(), "expected a run's folder", 1),
        (_later, "format version 99: this ConvAtlas reads version", 2),
        (_never_started, "was never started", 1),
        (lambda folder: (folder / "metrics.jsonl").write_text('{"split": "val"}\n'), "metrics.jsonl is damaged at line 1", 1),
        (lambda folder: shutil.copy(folder.parent / "donor.safetensors", folder / "test.safetensors"), "belongs to another run", 1),
    ],
)
def test_a_run_that_cannot_be_read_is_one_sentence(
    damage: Callable[[Path], object], message: str, code: int, three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(three[2] / "test.safetensors", tmp_path / "donor.safetensors")
    folder = copied(three[1], tmp_path / "damaged")
    damage(folder)
    assert main(["compare", str(three[0]), str(folder)]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_command_speaks_json_and_says_where_the_picture_is(three: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, three[:2]), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {*document} == {"runs", "differences", "paired", "unpaired", "seeds", "curves"}
    ids = [row["run_id"][:8] for row in document["runs"]]
    picture = three[0].parent / f"compare-{ids[0]}-{ids[1]}.png"
    assert document["curves"] == str(picture)
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 50
    assert main(["compare", str(three[0]), str(three[1] / ".." / "seed0")]) == 2
    assert "is named twice" in capsys.readouterr().err


def test_the_command_says_in_words_who_is_better(three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "curves.png"
    (pair_,) = compare.compare_runs(compare.read_runs(three[:2]))["paired"]
    assert main(["compare", *map(str, three[:2]), "--png", str(file)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"wrote {file}" in said
    better, other = ("B", "A") if pair_["difference"] > 0 else ("A", "B")
    counts = {"A": pair_["only_first"], "B": pair_["only_second"]}
    low, high = sorted(abs(end) if end * pair_["difference"] > 0 else -abs(end) for end in pair_["interval"])
    assert (
        f"{better} is {abs(pair_['difference']):.2f} points better than {other} on the same 180 images "
        f"(95 % interval {low:.2f} to {high:.2f}; McNemar p " in said
    )
    assert f"{counts[better]} only {better} got right, {counts[other]} only {other}" in said


def test_a_picture_is_drawn_whatever_the_runs_are_like(three: list[Path], tmp_path: Path) -> None:
    strange = copied(three[0], tmp_path / "a$b_$ c")
    lines = [{"split": "train", "step": 1, "epoch": 0.5, "loss": None, "top1": 1.0, "lr": 0.0}, {"split": "val", "step": 1, "epoch": 0.5}]
    (strange / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    empty = copied(three[1], tmp_path / ("猫" * 60))
    (empty / "metrics.jsonl").unlink()
    many = [copied(three[2], tmp_path / f"copy{i}") for i in range(9)]
    pasts = compare.read_runs([three[0], strange, empty, *many])
    assert curves.draw_curves(pasts, compare.compare_runs(pasts)["differences"]).startswith(b"\x89PNG")
