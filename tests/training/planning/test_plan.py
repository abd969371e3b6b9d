"""Plans: the laws of several devices, the document, the mistakes of users, and real trainings."""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from helpers.planning import (
    device_spec,
    loader_rates,
    model_costs,
    step_times,
    workloads,
)
from helpers.rank_jobs import finish_ranks, start_ranks, write_run_file
from helpers.small_runs import small_run
from hypothesis import given
from hypothesis import strategies as st

import convatlas as ca
from convatlas import models, recipes
from convatlas.cli.main import main
from convatlas.errors import UserError
from convatlas.runtime import hardware
from convatlas.training.planning import profiler, scaling
from convatlas.training.planning.plan_run import open_data_if_present
from convatlas.training.planning.step_time import LoaderRate, StepTime
from convatlas.training.planning.workload import ModelCost, Workload
from convatlas.training.resolve import resolve_run
from convatlas.training.run import DataSpec

CPU = torch.device("cpu")
KEYS = {
    *("run_id", "model", "data_set", "recipe", "precision", "batch", "micro_batch", "steps"),
    *("steps_per_epoch", "macs", "params", "count", "device", "step", "memory", "fits", "largest_batch"),
    *("images_per_second", "seconds", "device_hours", "data", "requested", "rows", "notes"),
}
MEMORY_KEYS = {
    *("reserved", "weights", "gradients", "optimizer", "average", "weight_copies", "activations"),
    *("activation_gradients", "batch", "evaluation", "training", "total", "of", "usable"),
}
ROUNDING = 1 + 1e-9


# Laws


@given(model_costs(), workloads(), step_times(), st.integers(1, 600), loader_rates())
def test_more_devices_never_take_longer_where_exchange_is_free(
    cost: ModelCost, work: Workload, step_time: StepTime, count: int, loader: LoaderRate | None
) -> None:
    device = device_spec(intra_node_bandwidth=math.inf, inter_node_bandwidth=math.inf)
    step_time = step_time.replace(exchange=0)
    fewer = scaling.estimate(cost, work, step_time, device, count, loader)
    more = scaling.estimate(cost, work, step_time, device, count + 1, loader)
    assert more.epoch_seconds <= fewer.epoch_seconds * ROUNDING
    assert more.seconds <= fewer.seconds * ROUNDING
    assert more.memory_bytes <= fewer.memory_bytes


@given(model_costs(), workloads(), step_times(), st.integers(1, 600))
def test_only_the_exchange_can_make_more_devices_slower(
    cost: ModelCost, work: Workload, step_time: StepTime, count: int
) -> None:
    row = scaling.estimate(cost, work, step_time, device_spec(), count)
    single = scaling.estimate(cost, work, step_time, device_spec(), 1)
    exchange = step_time.exchange if row.busy_devices > 1 else 0
    assert single.exposed_seconds == single.all_reduce_bytes == 0
    assert row.compute_seconds <= single.compute_seconds * ROUNDING + exchange
    assert 0 <= row.exposed_seconds <= row.all_reduce_seconds
    assert row.step_seconds == pytest.approx(row.compute_seconds + row.exposed_seconds)


@given(model_costs(), workloads(), step_times(), st.integers(1, 300), loader_rates())
def test_twice_the_devices_never_take_fewer_device_hours(
    cost: ModelCost, work: Workload, step_time: StepTime, count: int, loader: LoaderRate | None
) -> None:
    row = scaling.estimate(cost, work, step_time, device_spec(), count, loader)
    doubled = scaling.estimate(cost, work, step_time, device_spec(), 2 * count, loader)
    assert doubled.device_hours * ROUNDING >= row.device_hours


@given(model_costs(), workloads(), step_times())
def test_devices_beyond_the_batch_have_nothing_to_do(
    cost: ModelCost, work: Workload, step_time: StepTime
) -> None:
    device = device_spec()
    row = scaling.estimate(cost, work, step_time, device, work.batch)
    beyond = scaling.estimate(cost, work, step_time, device, 3 * work.batch)
    assert (row.images, row.busy_devices) == (1, work.batch)
    assert (beyond.images, beyond.busy_devices) == (1, work.batch)
    assert beyond.step_seconds <= row.step_seconds or beyond.busy_devices > device.devices_per_node
    assert beyond.limited_by in ("batch", "data")


@pytest.mark.parametrize(("count", "factor"), [(1, 0), (2, 1), (4, 1.5), (8, 1.75), (4096, 2 * 4095 / 4096)])
def test_a_ring_sends_less_than_twice_the_gradients(count: int, factor: float) -> None:
    assert scaling.ring_bytes(1000, count) == factor * 1000


@given(st.integers(0, 10**10), st.integers(2, 4096), st.floats(0, 1))
def test_a_backward_hides_all_of_an_exchange_except_the_last_bucket(
    size: int, count: int, seconds: float
) -> None:
    device = device_spec()

    def exposed(pass_seconds: float) -> float:
        return scaling.exposed_comm_seconds(size, device, count, pass_seconds)

    transfer = scaling.ring_bytes(size, count) / device.ring_bandwidth(count)
    last_bucket = transfer if size <= scaling.BUCKET_BYTES else transfer * scaling.BUCKET_BYTES / size
    assert exposed(0) == transfer
    assert transfer - seconds <= exposed(seconds) <= transfer
    assert exposed(math.inf) == pytest.approx(last_bucket)


def test_a_ring_is_as_fast_as_its_slowest_link() -> None:
    device = hardware.get_device_spec("H100-SXM")
    assert (device.ring_bandwidth(8), device.ring_bandwidth(9)) == (450e9, 50e9)


# The command


@pytest.fixture(scope="module")
def short_measurements() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "SECONDS_PER_RATE", 0.02)
        patch.setattr(profiler, "SECONDS", 0.1)
        patch.setattr(profiler, "MAX_PASS_SECONDS", 0.1)
        yield


@pytest.fixture(scope="module")
def run_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run_file(small_run(), tmp_path_factory.mktemp("planned") / "run.json")


@pytest.mark.usefixtures("short_measurements")
def test_the_document_describes_run_device_and_scaling(
    run_json: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(run_json), "--count", "3", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert "measuring" in captured.err
    assert set(document) == KEYS
    run = resolve_run(small_run(), CPU).run
    assert document["run_id"] == run.id
    assert document["step"]["origin"] == "measured"
    assert (document["steps"], document["batch"], document["count"]) == (run.steps, 32, 3)
    assert [row["devices"] for row in document["rows"]] == [1, 2, 3, 4, 8, 16, 32]
    assert not any(row["extrapolated"] for row in document["rows"])
    assert document["requested"] == next(row for row in document["rows"] if row["devices"] == 3)
    assert (document["requested"]["images"], document["requested"]["busy_devices"]) == (11, 3)
    assert document["fits"]
    assert document["largest_batch"] > 32
    assert document["data"]["loader_images_per_second"] > 0
    assert document["data"]["bytes_per_step"] == 32 * 32 * 32
    assert set(document["memory"]) == MEMORY_KEYS
    assert document["memory"]["gradients"] == 4 * document["params"]


@pytest.mark.usefixtures("short_measurements")
def test_a_published_device_is_planned_in_words(run_json: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(run_json.parent), "--device", "H100-SXM", "--count", "64"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "is attained, as by this run here" in output
    for words in ("H100-SXM", "published", "64 devices", "a batch of 32"):
        assert words in output
    assert "128" not in output.partition("devices images each")[2]  # a row of devices without an image


@pytest.mark.usefixtures("short_measurements")
def test_a_device_without_the_runs_precision_is_planned_in_fp32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_run_file(small_run().replace(precision="bf16"), tmp_path / "run.json")
    assert main(["plan", str(file), "--device", "t4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["precision"] == "fp32"
    assert document["step"]["origin"].startswith("roofline_")
    assert any("the run says bf16" in note for note in document["notes"])


@pytest.mark.usefixtures("short_measurements")
def test_a_complete_run_is_planned_without_its_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = resolve_run(small_run(), CPU).run
    complete = run.replace(data=run.data.replace(name="folder:/nowhere"))
    assert main(["plan", str(write_run_file(complete, tmp_path / "complete.json")), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["data"]["loader_images_per_second"] is None
    assert document["data"]["sufficient"] is document["data"]["machines_needed"] is None
    assert any("the data is not read" in note for note in document["notes"])
    incomplete = small_run().replace(data=DataSpec("folder:/nowhere"))
    assert main(["plan", str(write_run_file(incomplete, tmp_path / "incomplete.json"))]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 2  # that it measures, and the error


@pytest.mark.usefixtures("short_measurements")
def test_a_run_that_does_not_fit_is_planned_and_is_no_error(
    run_json: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(hardware.DEVICE_SPECS["t4"], memory=1_001_000_000)
    monkeypatch.setitem(hardware.DEVICE_SPECS, "t4", small)
    assert main(["plan", str(run_json), "--device", "t4"]) == 0
    output = capsys.readouterr().out
    assert "not even one image" in output
    assert "(too much)" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "h10-sxm"], "unknown device 'h10-sxm': the nearest is 'h100-sxm'"),
        (["--count", "0"], "--count should be 1 or more, not 0"),
        (["--count", "two"], "--count is 'two': expected a whole number"),
    ],
)
def test_an_invalid_option_is_one_line(
    options: list[str], message: str, run_json: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(run_json), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        assert main(["plan", str(path)]) == 2
        assert "expected a run.json, or a run's folder" in capsys.readouterr().err
    (tmp_path / "run.json").write_text("{}")
    assert main(["plan", str(tmp_path)]) == 2
    assert "missing required field" in capsys.readouterr().err


def test_a_network_that_labels_pixels_is_refused_as_by_train() -> None:
    run = ca.Run(model="lenet5", data="digits")
    with pytest.raises(UserError, match="labels every pixel"):
        open_data_if_present(run.replace(model=models.get_architecture("unet")), CPU)


def test_every_published_device_names_its_source_and_has_fp32() -> None:
    for key, device in hardware.DEVICE_SPECS.items():
        assert hardware.get_device_spec(device.name).name == device.name
        assert device.origin == "published"
        assert "datasheet" in device.source or "whitepaper" in device.source
        assert device.flops["fp32"] > 1e12
        assert device.intra_node_bandwidth >= device.inter_node_bandwidth
        assert key == key.lower()
        assert msgspec.json.encode(device)


# Against real trainings


def real_run(model: str, epochs: int) -> ca.Run:
    run = ca.Run(model=model, data="digits")
    recipe = run.recipe.replace(budget=recipes.Epochs(epochs), batch=64)
    return run.replace(recipe=recipe, log_every=11)


def assert_rate_was_estimated(before: dict[str, Any], out: Path, after: dict[str, Any]) -> None:
    """The rate of a training lies between those of the plans before and after it, since the machine's
    speed drifts."""
    lines = [json.loads(line) for line in (out / "timing.jsonl").read_text().splitlines()]
    rate = statistics.median(line["images_per_second"] for line in lines[1:])
    low, high = sorted((before["images_per_second"], after["images_per_second"]))
    assert low / 1.25 < rate < high * 1.25, (low, rate, high)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("model", "epochs"), [("lenet5", 10), ("resnet20_cifar", 2)])
def test_the_plan_estimates_a_real_training(model: str, epochs: int, tmp_path: Path) -> None:
    file = write_run_file(real_run(model, epochs), tmp_path / "run.json")
    program = "import sys, resource; from convatlas.cli.main import main; code = main(sys.argv[1:]); "
    program += "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024; "
    program += "print(peak, file=sys.stderr); sys.exit(code)"

    def convatlas(*arguments: str) -> tuple[dict[str, Any], int]:
        """The document and the peak memory in bytes of a command."""
        command = [sys.executable, "-c", program, *arguments, "--json"]
        completed = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(completed.stdout), int(completed.stderr.split()[-1])

    before, _ = convatlas("plan", str(file))
    _, peak = convatlas("train", str(file), "--out", str(tmp_path / "run"))
    after, _ = convatlas("plan", str(file))
    assert_rate_was_estimated(before, tmp_path / "run", after)
    assert before["memory"]["total"] == pytest.approx(peak, rel=0.25)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("model", "epochs"), [("lenet5", 10), ("resnet20_cifar", 2)])
def test_the_plan_of_two_ranks_estimates_their_training(model: str, epochs: int, tmp_path: Path) -> None:
    file = write_run_file(real_run(model, epochs), tmp_path / "run.json")

    def convatlas(*arguments: str) -> dict[str, Any]:
        """The document of a command on two ranks."""
        main_rank, other_rank = finish_ranks(start_ranks(tmp_path, [(main, [*arguments, "--json"])] * 2))
        assert (main_rank.exit_code, other_rank.exit_code) == (0, 0), (main_rank, other_rank)
        assert other_rank.stdout == ""
        document: dict[str, Any] = json.loads(main_rank.stdout)
        return document

    before = convatlas("plan", str(file))
    convatlas("train", str(file), "--out", str(tmp_path / "run"))
    after = convatlas("plan", str(file))
    assert (before["count"], before["requested"]["images"]) == (2, 32)
    assert_rate_was_estimated(before, tmp_path / "run", after)


@pytest.mark.gpu
def test_a_cuda_device_is_planned_from_its_own_measurements(
    run_json: Path, capsys: pytest.CaptureFixture[str], cuda: torch.device
) -> None:
    assert main(["plan", str(run_json), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert torch.cuda.get_device_name(cuda) in json.dumps(document)
