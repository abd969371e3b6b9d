"""Runs side by side: their differences, paired tests on the same samples, curves, and the command."""

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
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
from convatlas.evaluation.predictions import (
    FILE,
    FORMAT,
    Predictions,
    PredictionsMetadata,
    read_predictions,
)
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
from convatlas.storage.json_lines import JsonLines, read_json_lines
from convatlas.training.comparison import compare, curves
from convatlas.training.run import DataSpec, RunFile, serialize_run_file

METADATA = PredictionsMetadata(
    format=FORMAT,
    run="0" * 64,
    data="digits",
    data_sha256="d",
    split="test",
    crops="center",
    classes=("a", "b"),
)


@pytest.fixture(scope="module")
def run_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of three runs that differ in their seed."""
    folder = tmp_path_factory.mktemp("compared") / "runs"
    return [ca.train(small_run(seed, epochs=1), out=folder / f"seed{seed}").out for seed in range(3)]


def copy_folder(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def truncate_log(folder: Path, num_lines: int) -> None:
    """Leave the first lines of metrics.jsonl, and a torn one: of a run that was killed while it wrote."""
    file = folder / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)[:num_lines]
    file.write_bytes(b"".join(lines) + b'{"step": 1')


def rewrite_predictions(folder: Path, **changes: str) -> None:
    """Change the metadata of a run's stored predictions."""
    tensors, document = checked_safetensors.read_checked(folder / FILE)
    metadata = json.loads(document) | changes
    checked_safetensors.write_checked(folder / FILE, tensors, metadata)


# Stored predictions


def test_the_predictions_of_the_test_split_are_stored_with_the_run(run_folders: list[Path]) -> None:
    stored = read_predictions(run_folders[0] / FILE)
    dataset = open_dataset("digits")
    metadata = stored.metadata
    assert metadata is not None
    assert metadata.run == compare.read_run(run_folders[0]).run.id
    assert (metadata.data_sha256, metadata.classes) == (dataset.sha256, dataset.classes)
    assert (metadata.split, metadata.crops) == ("test", "center")
    assert stored.indices.tolist() == list(range(180))
    assert np.array_equal(stored.labels, dataset.splits["test"].labels)
    top1 = 100 * np.mean(stored.logits.argmax(1) == stored.labels)
    assert top1 == pytest.approx(ca.evaluate(ca.load(run_folders[0]))["top1"])


@pytest.mark.parametrize(
    ("tensors", "document", "message"),
    [
        ({}, {"format": 99}, f"format version 99: this ConvAtlas reads version {FORMAT}"),
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
def test_stored_predictions_that_contradict_themselves_are_refused(
    tensors: dict[str, torch.Tensor], document: dict[str, object], message: str, tmp_path: Path
) -> None:
    valid = {"logits": torch.zeros(2, 2), "labels": torch.tensor([0, 1]), "indices": torch.tensor([3, 5])}
    file = tmp_path / "test.safetensors"
    checked_safetensors.write_checked(file, valid, METADATA)
    assert read_predictions(file).indices.tolist() == [3, 5]
    metadata = msgspec.to_builtins(METADATA) | document
    checked_safetensors.write_checked(file, valid | tensors, metadata)
    with pytest.raises(UserError, match=message):
        read_predictions(file)


# Paired tests


def test_mcnemar_is_the_exact_binomial_test() -> None:
    # Armitage & Berry 1994, p. 127, as StatsDirect's manual computes it
    assert mcnemar(12, 2) == pytest.approx(0.0129, abs=5e-5)
    assert mcnemar(0, 0) == 1
    for only_first, only_second in ((3, 3), (0, 5), (210, 252), (40, 20)):
        n = only_first + only_second
        tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
        assert mcnemar(only_first, only_second) == pytest.approx(min(1, 2 * tail))


def test_the_interval_is_agresti_and_mins() -> None:
    # The example of R's PropCIs::diffpropci.mp: 40 and 20 discordant of 160 pairs
    assert interval(40, 20, 160) == pytest.approx((-21.6017, -3.0896), abs=1e-4)
    for only_first, only_second, n in ((40, 20, 160), (0, 0, 30), (7, 0, 7), (3, 90, 1000)):
        # Half a sample more in each cell, as a list of n + 2 differences at half weight each
        counts = [2 * only_first + 1, 2 * only_second + 1, 2 * (n - only_first - only_second) + 2]
        differences = np.repeat([-1.0, 1.0, 0.0], counts)
        center = differences.mean()
        half_width = 1.959964 * differences.std() / math.sqrt(n + 2)
        expected = 100 * max(center - half_width, -1), 100 * min(center + half_width, 1)
        assert interval(only_first, only_second, n) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("n", "only_first", "only_second"),
    [(100, 0.05, 0.10), (180, 0.15, 0.12), (1000, 0.02, 0.02), (60, 0.02, 0.05)],
)
def test_the_interval_covers_the_truth_in_95_percent_of_draws(
    n: int, only_first: float, only_second: float
) -> None:
    shares = [only_first, only_second, 1 - only_first - only_second]
    draws = np.random.default_rng(0).multinomial(n, shares, size=3000).tolist()
    intervals = [interval(count_first, count_second, n) for count_first, count_second, _ in draws]
    difference = 100 * (only_second - only_first)
    assert 0.94 < np.mean([low <= difference <= high for low, high in intervals]) < 0.985


def test_two_networks_are_paired_on_the_samples_that_both_predicted() -> None:
    labels, indices = np.array([0, 0, 1, 1, 0]), np.array([2, 3, 5, 7, 11])
    logits = np.eye(2, dtype=np.float32)
    # correct at the indices 2, 5 and 11
    first = correctness(Predictions(logits[[0, 1, 1, 0, 0]], labels, indices, metadata=METADATA))
    # correct at the index 7
    other_labels, other_indices = np.array([1, 0, 1, 1]), np.array([1, 3, 5, 7])
    second = correctness(Predictions(logits[[0, 1, 0, 1]], other_labels, other_indices, metadata=METADATA))
    comparison = paired_comparison(first, second)
    assert (comparison["n"], comparison["unshared"]) == (3, 3)  # 3, 5 and 7
    assert (comparison["both"], comparison["neither"]) == (0, 1)
    assert (comparison["only_first"], comparison["only_second"]) == (1, 1)
    assert (comparison["difference"], comparison["p"]) == (0, 1)


def test_a_network_does_not_differ_from_itself() -> None:
    correct = np.array([True, False, True, False, True])
    network = Correctness(METADATA, np.array([2, 3, 5, 7, 11]), correct)
    comparison = paired_comparison(network, network)
    counts = {key: comparison[key] for key in ("n", "unshared", "both", "neither")}
    assert counts == {"n": 5, "unshared": 0, "both": 3, "neither": 2}
    assert comparison["only_first"] == comparison["only_second"] == comparison["difference"] == 0
    assert comparison["p"] == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"run": "1" * 64}, None),
        ({"data_sha256": "e"}, "the content of digits had changed"),
        ({"data_sha256": "e", "data": "mnist"}, "other data: digits and mnist"),
        ({"data": "packed:digits"}, None),
        ({"split": "val"}, "other splits: test and val"),
        ({"crops": "10"}, "other crops: center and 10"),
    ],
)
def test_only_predictions_for_the_same_images_are_paired(
    changes: Mapping[str, str], problem: str | None
) -> None:
    correct = np.array([True])
    first = Correctness(METADATA, np.array([0]), correct)
    second = Correctness(METADATA.replace(**changes), np.array([0]), correct)
    assert pairing_problem(first, second) == problem
    other_sample = Correctness(METADATA, np.array([1]), correct)
    assert pairing_problem(first, other_sample) == "no sample that both could read"


# The document


def test_the_differences_are_exactly_the_fields_that_were_changed(run_folders: list[Path]) -> None:
    base = compare.read_run(run_folders[0]).run_file
    recipe = base.run.recipe
    lr = recipe.optimizer.lr
    threads = base.environment["threads"]
    described = recipe.replace(unstated=("more",), source="elsewhere")
    changed_recipe = described.replace(optimizer=recipe.optimizer.replace(lr=0.5))
    changed = base.replace(
        run=base.run.replace(seed=7, recipe=changed_recipe, notes=("a note",)),
        environment=dict(base.environment) | {"threads": 99},
    )
    assert compare.differences([base, base]) == []
    assert compare.differences([base, changed, base]) == [
        {"path": "run.recipe.optimizer.lr", "values": [lr, 0.5, lr]},
        {"path": "run.seed", "values": [0, 7, 0]},
        {"path": "environment.threads", "values": [threads, 99, threads]},
    ]


def test_another_optimiser_differs_in_its_fields_alone(run_folders: list[Path]) -> None:
    base = compare.read_run(run_folders[0]).run_file
    recipe = base.run.recipe.replace(optimizer=SGD(lr=base.run.recipe.optimizer.lr))
    other = RunFile(run=base.run.replace(recipe=recipe), environment=base.environment)
    fields = compare.differences([base, other])
    assert fields
    assert all(field["path"].startswith("run.recipe.optimizer.") for field in fields)


def test_three_seeds_are_compared_in_one_document(run_folders: list[Path]) -> None:
    records = compare.read_runs(run_folders)
    document = msgspec.json.decode(msgspec.json.encode(compare.compare_runs(records)))
    assert {*document} == {"runs", "differences", "paired", "unpaired", "seeds"}
    assert document["differences"] == [{"path": "run.seed", "values": [0, 1, 2]}]
    assert document["unpaired"] == []
    evaluations = [ca.evaluate(ca.load(folder)) for folder in run_folders]
    for row, record, evaluation in zip(document["runs"], records, evaluations, strict=True):
        assert (row["finished"], row["step"], row["run_id"]) == (True, row["steps"], record.run.id)
        test_scores = (row["test_top1"], row["test_loss"], row["n"])
        assert test_scores == (evaluation["top1"], evaluation["loss"], evaluation["n"])
        assert row["test_interval"] == pytest.approx(evaluation["top1_interval"])
        assert row["best_val_top1"] >= row["val_top1"]
        assert row["seconds"] > 0
    top1 = [evaluation["top1"] for evaluation in evaluations]
    mean, deviation = pytest.approx(np.mean(top1)), pytest.approx(np.std(top1, ddof=1))
    assert document["seeds"] == [{"runs": [0, 1, 2], "top1_mean": mean, "top1_deviation": deviation}]


def test_every_two_runs_are_paired_by_their_predictions(run_folders: list[Path]) -> None:
    pairs = compare.compare_runs(compare.read_runs(run_folders))["paired"]
    assert [pair["runs"] for pair in pairs] == [[0, 1], [0, 2], [1, 2]]
    stored = [read_predictions(folder / FILE) for folder in run_folders]
    correct = [predictions.logits.argmax(1) == predictions.labels for predictions in stored]
    for pair in pairs:
        i, j = pair["runs"]
        assert pair["n"] == 180
        assert pair["n"] == pair["both"] + pair["neither"] + pair["only_first"] + pair["only_second"]
        assert pair["only_second"] == int((correct[j] & ~correct[i]).sum())
        assert pair["difference"] == pytest.approx(100 * (correct[j].mean() - correct[i].mean()))


def test_a_damaged_log_of_timing_is_to_be_removed_alone(run_folders: list[Path], tmp_path: Path) -> None:
    damaged = copy_folder(run_folders[1], tmp_path / "damaged")
    timing = damaged / "timing.jsonl"
    timing.write_bytes(timing.read_bytes().replace(b'"seconds":', b'"seconds": '))
    with pytest.raises(UserError, match=r"timing\.jsonl is damaged at line 1: .*remove this file:"):
        compare.read_runs([run_folders[0], damaged])
    timing.unlink()
    compare.read_runs([run_folders[0], damaged])


def test_a_run_that_stopped_is_compared_as_far_as_it_came(
    run_folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = copy_folder(run_folders[1], tmp_path / "stopped")
    truncate_log(stopped, 12)
    (stopped / "timing.jsonl").unlink()
    started = copy_folder(run_folders[2], tmp_path / "started")
    (started / "metrics.jsonl").unlink()
    without_predictions = copy_folder(run_folders[2], tmp_path / "without_predictions")
    (without_predictions / FILE).unlink()
    folders = [run_folders[0], stopped, started, without_predictions]
    document = compare.compare_runs(compare.read_runs(folders))
    stopped_row, started_row = document["runs"][1:3]
    assert [row["finished"] for row in document["runs"]] == [True, False, False, True]
    assert 0 < stopped_row["step"] < stopped_row["steps"]
    assert stopped_row["test_top1"] is started_row["val_top1"] is None
    assert (document["paired"], document["seeds"]) == ([], [])
    assert document["unpaired"] == [
        {"runs": [1], "reason": "not finished"},
        {"runs": [2], "reason": "not finished"},
        {"runs": [3], "reason": f"no {FILE}"},
    ]
    assert main(["compare", *map(str, folders)]) == 0
    output = capsys.readouterr().out
    assert f"B is not finished (step {stopped_row['step']} of" in output
    assert "not paired: B, C (not finished)" in output
    assert f"not paired: D (no {FILE})" in output


# The command


def test_runs_on_other_data_are_not_paired_and_the_reason_is_printed(
    run_folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy_folder(run_folders[1], tmp_path / "other\x1b]0;")
    rewrite_predictions(other, data_sha256="0" * 64, data="bad\x1b]52;")
    assert main(["compare", str(run_folders[0]), str(other)]) == 0
    output = capsys.readouterr().out
    assert "not paired: A with B (other data: digits and bad" in output
    assert "\x1b" not in output


def flip_a_bit_of_the_predictions(folder: Path) -> None:
    data = bytearray((folder / FILE).read_bytes())
    data[-5] ^= 1
    (folder / FILE).write_bytes(data)


def remove_the_run_file(folder: Path) -> None:
    (folder / "run.json").unlink()


def give_the_run_file_a_later_format(folder: Path) -> None:
    document = json.loads((folder / "run.json").read_bytes())
    document["run"]["format"] = 99
    (folder / "run.json").write_text(json.dumps(document))


def forget_the_content_of_the_data(folder: Path) -> None:
    run_file = compare.read_run(folder).run_file
    run = run_file.run.replace(data=DataSpec(run_file.run.data.name))
    (folder / "run.json").write_bytes(serialize_run_file(run_file.replace(run=run)))


def replace_the_log(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"split": "val"}\n')


def copy_the_predictions_of_another_run(folder: Path) -> None:
    shutil.copy(folder.parent / "donor.safetensors", folder / FILE)


@pytest.mark.parametrize(
    ("damage", "message", "exit_code"),
    [
        (
            flip_a_bit_of_the_predictions,
            f"{FILE} is damaged: its content does not match its SHA-256",
            1,
        ),
        (remove_the_run_file, "expected a run's folder", 1),
        (give_the_run_file_a_later_format, "format version 99: this ConvAtlas reads version", 2),
        (forget_the_content_of_the_data, "was never started", 1),
        (replace_the_log, "metrics.jsonl is damaged at line 1", 1),
        (copy_the_predictions_of_another_run, "belongs to another run", 1),
    ],
)
def test_a_run_that_cannot_be_read_is_one_sentence(
    damage: Callable[[Path], None],
    message: str,
    exit_code: int,
    run_folders: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(run_folders[2] / FILE, tmp_path / "donor.safetensors")
    folder = copy_folder(run_folders[1], tmp_path / "damaged")
    damage(folder)
    assert main(["compare", str(run_folders[0]), str(folder)]) == exit_code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_json_document_names_the_file_of_the_curves(
    run_folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *map(str, run_folders[:2]), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {*document} == {"runs", "differences", "paired", "unpaired", "seeds", "curves"}
    ids = [row["run_id"][:8] for row in document["runs"]]
    file = run_folders[0].parent / f"compare-{ids[0]}-{ids[1]}.png"
    assert document["curves"] == str(file)
    with Image.open(file) as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 50


def test_a_run_that_is_named_twice_is_refused(
    run_folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(run_folders[0]), str(run_folders[1] / ".." / "seed0")]) == 2
    assert "is named twice" in capsys.readouterr().err


def test_the_command_says_in_words_which_run_is_better(
    run_folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "curves.png"
    (pair,) = compare.compare_runs(compare.read_runs(run_folders[:2]))["paired"]
    assert main(["compare", *map(str, run_folders[:2]), "--png", str(file)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert f"wrote {file}" in output
    difference = pair["difference"]
    better, other = ("B", "A") if difference > 0 else ("A", "B")
    counts = {"A": pair["only_first"], "B": pair["only_second"]}
    low, high = sorted(abs(end) if end * difference > 0 else -abs(end) for end in pair["interval"])
    verdict = f"{better} is {abs(difference):.2f} points better than {other} on the same 180 images"
    assert f"{verdict} (95 % interval {low:.2f} to {high:.2f}; McNemar p " in output
    assert f"{counts[better]} only {better} predicted correctly, {counts[other]} only {other}" in output


def test_curves_are_drawn_whatever_the_runs_hold(run_folders: list[Path], tmp_path: Path) -> None:
    strange = copy_folder(run_folders[0], tmp_path / "a$b_$ c")
    (strange / "metrics.jsonl").unlink()
    log = JsonLines(strange / "metrics.jsonl")
    log.append({"split": "train", "step": 1, "epoch": 0.5, "loss": None, "top1": 1.0, "lr": 0.0})
    log.append({"split": "val", "step": 1, "epoch": 0.5})
    log.close()
    empty = copy_folder(run_folders[1], tmp_path / ("猫" * 60))
    (empty / "metrics.jsonl").unlink()
    copies = [copy_folder(run_folders[2], tmp_path / f"copy{number}") for number in range(9)]
    records = compare.read_runs([run_folders[0], strange, empty, *copies])
    image = curves.draw_curves(records, compare.compare_runs(records)["differences"])
    assert image.startswith(b"\x89PNG")


def test_a_pipe_instead_of_a_runs_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "run.json")
    with pytest.raises(UserError, match=r"cannot read .*run\.json \(it is a named pipe\)"):
        compare.read_run(tmp_path / "run")
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"cannot read .*metrics\.jsonl \(it is a named pipe\)"):
        list(read_json_lines(tmp_path / "metrics.jsonl"))
