"""Plans: the laws of many devices, the document, the mistakes, and a real training."""

import json
import math
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from helpers.planning import LOADINGS, machine, networks, paces, works
from helpers.rank_jobs import finish, start, stored
from helpers.small_runs import small_run
from hypothesis import given
from hypothesis import strategies as st

import convatlas as ca
from convatlas import models, recipes
from convatlas.cli.main import main
from convatlas.errors import UserError
from convatlas.runtime import hardware as devices
from convatlas.training.planning import plan, profiler, scaling
from convatlas.training.planning.step_time import LoaderRate, StepTime
from convatlas.training.planning.workload import ModelCost, Workload
from convatlas.training.resolve import resolve_run
from convatlas.training.run import DataSpec, Run

CPU = torch.device("cpu")
KEYS = {"run_id", "model", "data_set", "recipe", "precision", "batch", "micro_batch", "steps", "steps_per_epoch", "count", "device", "step"}
KEYS |= {"memory", "fits", "largest_batch", "images_per_second", "seconds", "device_hours", "data", "asked", "rows", "notes"}


# Laws


@given(networks(), works(), paces(), st.integers(1, 600), LOADINGS)
def test_more_devices_never_take_longer_where_exchange_is_free(
    n: ModelCost, w: Workload, p: StepTime, count: int, loading: LoaderRate | None
) -> None:
    free, p = machine(intra_node_bandwidth=math.inf, inter_node_bandwidth=math.inf), p.replace(exchange=0)
    fewer, more = (scaling.estimate(n, w, p, free, k, loading) for k in (count, count + 1))
    assert more.epoch_seconds <= fewer.epoch_seconds * (1 + 1e-9)
    assert more.seconds <= fewer.seconds * (1 + 1e-9)
    assert more.memory_bytes <= fewer.memory_bytes


@given(networks(), works(), paces(), st.integers(1, 600))
def test_what_more_devices_may_take_longer_by_is_the_exchange(n: ModelCost, w: Workload, p: StepTime, count: int) -> None:
    row = scaling.estimate(n, w, p, machine(), count)
    one = scaling.estimate(n, w, p, machine(), 1)
    assert one.exposed_seconds == one.all_reduce_bytes == 0
    assert row.compute_seconds <= one.compute_seconds * (1 + 1e-9) + (p.exchange if row.busy_devices > 1 else 0)
    assert 0 <= row.exposed_seconds <= row.all_reduce_seconds
    assert row.step_seconds == pytest.approx(row.compute_seconds + row.exposed_seconds)


@given(networks(), works(), paces(), st.integers(1, 300), LOADINGS)
def test_twice_the_devices_never_take_fewer_device_hours(
    n: ModelCost, w: Workload, p: StepTime, count: int, loading: LoaderRate | None
) -> None:
    once, twice = (scaling.estimate(n, w, p, machine(), k, loading) for k in (count, 2 * count))
    assert twice.device_hours >= once.device_hours * (1 - 1e-9)


@given(networks(), works(), paces())
def test_where_the_batch_is_exhausted_more_devices_change_nothing(n: ModelCost, w: Workload, p: StepTime) -> None:
    enough, more = (scaling.estimate(n, w, p, machine(), k) for k in (w.batch, 3 * w.batch))
    assert (enough.images, enough.busy_devices, more.images, more.busy_devices) == (1, w.batch, 1, w.batch)
    assert more.step_seconds <= enough.step_seconds or more.busy_devices > machine().devices_per_node
    assert more.limited_by in ("batch", "data")


@pytest.mark.parametrize(("count", "factor"), [(1, 0), (2, 1), (4, 1.5), (8, 1.75), (4096, 2 * 4095 / 4096)])
def test_a_ring_sends_less_than_twice_the_gradients(count: int, factor: float) -> None:
    assert scaling.ring_bytes(1000, count) == factor * 1000


@given(st.integers(0, 10**10), st.integers(2, 4096), st.floats(0, 1))
def test_a_backward_hides_all_of_an_exchange_but_the_last_bucket(size: int, count: int, seconds: float) -> None:
    rates = machine()

    def exposed(seconds: float) -> float:
        return scaling.exposed_comm_seconds(size, rates, count, seconds)

    whole = exposed(0)
    assert whole == scaling.ring_bytes(size, count) / rates.ring_bandwidth(count)
    assert whole - seconds <= exposed(seconds) <= whole
    assert exposed(math.inf) == pytest.approx(whole if size <= scaling.BUCKET_BYTES else whole * scaling.BUCKET_BYTES / size)


def test_a_ring_is_as_quick_as_its_slowest_link() -> None:
    rates = devices.get_device_spec("H100-SXM")
    assert (rates.ring_bandwidth(8), rates.ring_bandwidth(9)) == (450e9, 50e9)


# The command


@pytest.fixture(scope="module")
def quick_measures() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in ((devices, "SECONDS_PER_RATE", 0.02), (profiler, "SECONDS", 0.1), (profiler, "MAX_SECONDS", 0.1)):
            patch.setattr(module, name, value)
        yield


@pytest.fixture(scope="module")
def run_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(small_run(), tmp_path_factory.mktemp("planned") / "run.json")


@pytest.mark.usefixtures("quick_measures")
def test_the_document(run_json: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(run_json), "--count", "3", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert set(found) >= KEYS
    assert "measuring" in captured.err
    run, _ = resolve_run(small_run(), CPU)
    assert found["run_id"] == run.id
    assert found["step"]["origin"] == "measured"
    assert (found["steps"], found["batch"], found["count"]) == (run.steps, 32, 3)
    assert [row["devices"] for row in found["rows"]] == sorted({3, *(2**k for k in range(13))})
    assert found["asked"] == next(row for row in found["rows"] if row["devices"] == 3)
    assert (found["asked"]["images"], found["asked"]["working"]) == (11, 3)
    assert found["rows"][-1]["limited_by"] == "batch"
    assert found["fits"]
    assert found["largest_batch"] > 32
    assert found["data"]["loader_images_per_second"] > 0
    assert found["data"]["bytes_per_step"] == 32 * 32 * 32
    assert found["memory"]["gradients"] == 4 * found["params"]


@pytest.mark.usefixtures("quick_measures")
def test_a_folder_a_named_device_and_the_words(run_json: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(run_json.parent), "--device", "H100-SXM", "--count", "64"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in ("H100-SXM", "published", "is attained, as by this run here", "4,096*", "64 devices", "a batch of 32"):
        assert words in out


@pytest.mark.usefixtures("quick_measures")
def test_a_device_without_the_runs_precision_is_planned_in_fp32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = stored(small_run().replace(precision="bf16"), tmp_path / "run.json")
    assert main(["plan", str(file), "--device", "t4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["precision"] == "fp32"
    assert any("the run says bf16" in note for note in found["notes"])


@pytest.mark.usefixtures("quick_measures")
def test_a_complete_run_is_planned_without_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = resolve_run(small_run(), CPU)
    assert run.data.content is not None
    file = stored(run.replace(data=run.data.replace(name="folder:/nowhere")), tmp_path / "run.json")
    assert main(["plan", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"]["loader_images_per_second"] is None
    assert any("the data is not read" in note for note in found["notes"])
    assert main(["plan", str(stored(small_run().replace(data=DataSpec("folder:/nowhere")), tmp_path / "run.json"))]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 2  # what it does, and the error


@pytest.mark.usefixtures("quick_measures")
def test_what_does_not_fit_is_said_and_not_an_error(
    run_json: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(devices.DEVICE_SPECS, "t4", replace(devices.DEVICE_SPECS["t4"], memory=1_001_000_000))
    assert main(["plan", str(run_json), "--device", "t4"]) == 0
    out = capsys.readouterr().out
    assert "not even one image" in out
    assert "(too much)" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "h10-sxm"], "unknown device 'h10-sxm': the nearest is 'h100-sxm'"),
        (["--count", "0"], "--count should be 1 or more, not 0"),
        (["--count", "two"], "--count is 'two': expected a whole number"),
    ],
)
def test_a_mistake_of_use(words: list[str], message: str, run_json: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(run_json), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        assert main(["plan", str(path)]) == 2
        assert "expected a run.json, or a run's folder" in capsys.readouterr().err
    (tmp_path / "run.json").write_text("{}")
    assert main(["plan", str(tmp_path)]) == 2
    assert "missing required field" in capsys.readouterr().err


def test_a_network_that_labels_pixels_is_refused_as_by_train(tmp_path: Path) -> None:
    run = ca.Run(model="lenet5", data="digits")
    with pytest.raises(UserError, match="labels every pixel"):
        plan.open_data_if_present(run.replace(model=models.get_architecture("unet")), CPU)


def test_every_published_device_names_its_source_and_has_fp32() -> None:
    for key, rates in devices.DEVICE_SPECS.items():
        assert devices.get_device_spec(rates.name).name == rates.name
        assert rates.origin == "published"
        assert "datasheet" in rates.source or "whitepaper" in rates.source
        assert rates.flops["fp32"] > 1e12
        assert rates.intra_node_bandwidth >= rates.inter_node_bandwidth
        assert key == key.lower()
        assert msgspec.json.encode(rates)


# Against a real training


def real_run(model: str, epochs: int) -> Run:
    run = ca.Run(model=model, data="digits")
    return run.replace(recipe=run.recipe.replace(budget=recipes.Epochs(epochs), batch=64), log_every=11)


def foretold(before: dict[str, Any], out: Path, after: dict[str, Any]) -> None:
    """The machine's speed drifts: the training lies between two plans."""
    lines = [json.loads(line) for line in (out / "timing.jsonl").read_text().splitlines()]
    rate = statistics.median(line["images_per_second"] for line in lines[1:])
    low, high = sorted((before["images_per_second"], after["images_per_second"]))
    assert low / 1.25 < rate < high * 1.25, (low, rate, high)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("model", "epochs"), [("lenet5", 10), ("resnet20_cifar", 2)])
def test_the_plan_foretells_a_real_training(model: str, epochs: int, tmp_path: Path) -> None:
    file = stored(real_run(model, epochs), tmp_path / "run.json")
    program = "import sys, resource; from convatlas.cli.main import main; code = main(sys.argv[1:]); "
    program += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr); sys.exit(code)"

    def convatlas(*words: str) -> tuple[dict[str, Any], int]:
        done = subprocess.run([sys.executable, "-c", program, *words, "--json"], capture_output=True, text=True, check=True)
        return json.loads(done.stdout), int(done.stderr.split()[-1])

    before, _ = convatlas("plan", str(file))
    _, peak = convatlas("train", str(file), "--out", str(tmp_path / "run"))
    after, _ = convatlas("plan", str(file))
    foretold(before, tmp_path / "run", after)
    assert before["memory"]["total"] == pytest.approx(peak, rel=0.25)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("model", "epochs"), [("lenet5", 10), ("resnet20_cifar", 2)])
def test_the_plan_of_two_ranks_foretells_what_they_do(model: str, epochs: int, tmp_path: Path) -> None:
    file = stored(real_run(model, epochs), tmp_path / "run.json")

    def convatlas(*words: str) -> dict[str, Any]:
        first, second = finish(start(tmp_path, [(main, [*words, "--json"])] * 2))
        assert (first.code, second.code, second.stdout) == (0, 0, ""), (first, second)
        found: dict[str, Any] = json.loads(first.stdout)
        return found

    before = convatlas("plan", str(file))
    convatlas("train", str(file), "--out", str(tmp_path / "run"))
    after = convatlas("plan", str(file))
    assert (before["count"], before["asked"]["images"]) == (2, 32)
    foretold(before, tmp_path / "run", after)


@pytest.mark.gpu
def test_a_cuda_device_is_planned_from_what_it_does_here(run_json: Path, capsys: pytest.CaptureFixture[str], cuda: torch.device) -> None:
    assert main(["plan", str(run_json), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert torch.cuda.get_device_name(cuda) in json.dumps(document)
