"""Plans: the terms of memory against real tensors, the laws of many devices, the document, the mistakes, and a real training."""

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
from hypothesis import given
from hypothesis import strategies as st
from ranks_jobs import finish, start, stored
from small import small_run
from torch import Tensor

import convatlas as ca
from convatlas import models, optim, recipes
from convatlas.cli.main import main
from convatlas.errors import UserError
from convatlas.optim import optimizers
from convatlas.optim.averaging import ExponentialAverage
from convatlas.runtime import rates as devices
from convatlas.runtime.device import Precision, Runtime
from convatlas.runtime.rates import Rates
from convatlas.training import figures, plan, probe
from convatlas.training.complete import complete
from convatlas.training.plan import Layer, Loading, Network, Pace, Work
from convatlas.training.run import Data, Run

CPU = torch.device("cpu")
KEYS = {"run_id", "model", "data_set", "recipe", "precision", "batch", "micro_batch", "steps", "steps_per_epoch", "count", "device", "step"}
KEYS |= {"memory", "fits", "largest_batch", "images_per_second", "seconds", "device_hours", "data", "asked", "rows", "notes"}


def resnet_run(**changes: Any) -> Run:
    run = ca.Run(model=models.describe("resnet20_cifar", width=0.5), data="digits", **changes)
    return run.but(recipe=run.recipe.but(batch=32, budget=recipes.Epochs(1)))


# Memory


def kept(run: Run, precision: Precision, images: int) -> int:
    """Bytes of the tensors, the module's own left out, that a real pass keeps for the backward pass."""
    objective = figures.untrained(run).train()
    own = {t.untyped_storage().data_ptr() for t in (*objective.parameters(), *objective.buffers())}
    sizes, held = dict[int, int](), list[Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held.append(tensor)
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch, _ = probe._random(run, images, run.content.preprocessing.shape)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), Runtime(CPU, precision, threads=1).autocast():
        objective(batch.images, batch.targets)
    return sum(sizes.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [small_run, resnet_run])
def test_the_activations_are_those_that_autograd_keeps(make: Any, precision: Precision) -> None:
    run, _ = complete(make(), CPU)
    held = plan.memory(figures.network(run, precision), 0, 16)
    assert held.activations + held.copies == pytest.approx(kept(run, precision, 16), rel=0.05)


@pytest.mark.parametrize("make", [small_run, resnet_run])
def test_weights_gradients_and_the_optimisers_state_are_counted_exactly(make: Any) -> None:
    run, _ = complete(make(), CPU)
    run = run.but(recipe=run.recipe.but(average=ExponentialAverage()))
    objective = figures.untrained(run)
    optimizer = run.recipe.optimizer.build(objective.model)
    for p in objective.model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    held = plan.memory(figures.network(run, "fp32"), 7, 0)
    tensors = [*objective.model.parameters(), *objective.model.buffers()]
    assert held.weights == sum(t.nbytes for t in tensors)
    assert held.average == held.weights
    assert held.gradients == sum(p.grad.nbytes for p in objective.model.parameters() if p.grad is not None)
    assert held.optimizer == sum(
        t.nbytes for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor) and t.dim()
    )
    assert held.total == held.training == 7 + 2 * held.weights + held.gradients + held.optimizer + held.copies


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [
        (optimizers.SGD(lr=1), 0),
        (optimizers.SGD(lr=1, momentum=0.9), 1),
        (optimizers.SGD(lr=1, momentum=0.9, lr_in_velocity=True), 1),
        (optimizers.RMSProp(lr=1), 1),
        (optimizers.RMSProp(lr=1, momentum=0.9, eps_inside=True), 2),
        (optimizers.AdaGrad(), 1),
        (optimizers.AdaDelta(), 2),
        (optimizers.Adam(), 2),
        (optimizers.AdamW(lr=1), 2),
        (optimizers.Adamax(), 2),
        (optimizers.Nadam(), 2),
        (optimizers.AMSGrad(), 3),
        (optimizers.AMSGrad(corrected=True), 3),
        (optimizers.AdaBound(), 2),
    ],
    ids=repr,
)
def test_the_optimiser_says_what_it_keeps(optimizer: optim.optimizers.Optimizer, states: int) -> None:
    assert figures.state_tensors(optimizer) == states


def test_what_is_frozen_has_no_gradient_and_keeps_less() -> None:
    run, _ = complete(resnet_run(), CPU)
    whole, part = figures.network(run, "fp32"), figures.network(run.but(frozen=("conv1", "conv2_x")), "fp32")
    assert part.params == whole.params
    assert part.trainable < whole.trainable
    assert part.kept_bytes < whole.kept_bytes


def test_auxiliary_heads_are_part_of_what_is_trained() -> None:
    run = ca.Run(model=models.describe("inception_v3", width=0.25, image_size=139), data="digits", recipe="small")
    run, _ = complete(run.but(recipe=run.recipe.but(batch=8)), CPU)
    without = run.but(recipe=run.recipe.but(auxiliary={}))
    assert figures.network(run, "fp32").macs > figures.network(without, "fp32").macs


# Laws


def networks() -> st.SearchStrategy[Network]:
    size = st.integers(0, 10**9)
    layers = st.builds(lambda f, w, m: Layer(f, w, w + m), size, st.integers(0, 10**8), st.integers(1, 10**8))
    return st.builds(
        lambda params, frozen, **rest: Network(params=params, trainable=params - frozen * params // 10, precision="fp32", **rest),
        st.integers(1, 10**9),
        st.integers(0, 10),
        buffers=size,
        pass_bytes=size,
        states=st.integers(0, 3),
        averaged=st.booleans(),
        macs=size,
        image_bytes=st.integers(1, 10**7),
        kept_bytes=st.integers(0, 10**9),
        passing_bytes=st.integers(0, 10**8),
        inference_bytes=st.integers(0, 10**8),
        layers=st.lists(layers, min_size=1, max_size=4).map(tuple),
    )


def works() -> st.SearchStrategy[Work]:
    return st.builds(
        lambda batch, micro, **rest: Work(batch=batch, micro_batch=min(batch, micro), **rest),
        st.integers(1, 2048),
        st.integers(1, 512),
        evaluation_batch=st.integers(1, 512),
        steps=st.integers(1, 10**6),
        steps_per_epoch=st.integers(1, 10**4),
        val=st.integers(0, 10**5),
        test=st.integers(0, 10**5),
    )


def paces() -> st.SearchStrategy[Pace]:
    seconds = st.floats(0, 1)
    return st.builds(Pace, fixed=seconds, per_image=st.floats(1e-6, 1), update=seconds, evaluation=seconds, exchange=seconds)


def machine(**changes: Any) -> Rates:
    plain = Rates(name="m", origin="published", source="", flops={"fp32": 1e12}, bandwidth=1e11, memory=10**10)
    return replace(plain, **changes)


LOADINGS = st.none() | st.builds(Loading, st.floats(1, 1e6), st.booleans())


@given(networks(), works(), paces(), st.integers(1, 600), LOADINGS)
def test_more_devices_never_take_longer_where_exchange_is_free(n: Network, w: Work, p: Pace, count: int, loading: Loading | None) -> None:
    free, p = machine(link=math.inf, network=math.inf), p.but(exchange=0)
    fewer, more = (plan.row(n, w, p, free, k, loading) for k in (count, count + 1))
    assert more.epoch_seconds <= fewer.epoch_seconds * (1 + 1e-9)
    assert more.seconds <= fewer.seconds * (1 + 1e-9)
    assert more.memory_bytes <= fewer.memory_bytes


@given(networks(), works(), paces(), st.integers(1, 600))
def test_what_more_devices_may_take_longer_by_is_the_exchange(n: Network, w: Work, p: Pace, count: int) -> None:
    row = plan.row(n, w, p, machine(), count)
    one = plan.row(n, w, p, machine(), 1)
    assert one.exposed_seconds == one.all_reduce_bytes == 0
    assert row.compute_seconds <= one.compute_seconds * (1 + 1e-9) + (p.exchange if row.working > 1 else 0)
    assert 0 <= row.exposed_seconds <= row.all_reduce_seconds
    assert row.step_seconds == pytest.approx(row.compute_seconds + row.exposed_seconds)


@given(networks(), works(), paces(), st.integers(1, 300), LOADINGS)
def test_twice_the_devices_never_take_fewer_device_hours(n: Network, w: Work, p: Pace, count: int, loading: Loading | None) -> None:
    once, twice = (plan.row(n, w, p, machine(), k, loading) for k in (count, 2 * count))
    assert twice.device_hours >= once.device_hours * (1 - 1e-9)


@given(networks(), works(), paces())
def test_where_the_batch_is_exhausted_more_devices_change_nothing(n: Network, w: Work, p: Pace) -> None:
    enough, more = (plan.row(n, w, p, machine(), k) for k in (w.batch, 3 * w.batch))
    assert (enough.images, enough.working, more.images, more.working) == (1, w.batch, 1, w.batch)
    assert more.step_seconds <= enough.step_seconds or more.working > machine().per_server
    assert more.limited_by in ("batch", "data")


@given(networks(), st.integers(0, 10**9), st.integers(0, 10**12))
def test_the_largest_batch_is_the_largest(n: Network, rest: int, room: int) -> None:
    most = plan.largest(n, rest, room)
    assert plan.memory(n, rest, most + 1).training > room
    assert most == 0 or plan.memory(n, rest, most).training <= room


@pytest.mark.parametrize(("count", "factor"), [(1, 0), (2, 1), (4, 1.5), (8, 1.75), (4096, 2 * 4095 / 4096)])
def test_a_ring_sends_less_than_twice_the_gradients(count: int, factor: float) -> None:
    assert plan.ring_bytes(1000, count) == factor * 1000


@given(st.integers(0, 10**10), st.integers(2, 4096), st.floats(0, 1))
def test_a_backward_hides_all_of_an_exchange_but_the_last_bucket(size: int, count: int, seconds: float) -> None:
    rates = machine()

    def exposed(seconds: float) -> float:
        return plan.exposed(size, rates, count, seconds)

    whole = exposed(0)
    assert whole == plan.ring_bytes(size, count) / rates.between(count)
    assert whole - seconds <= exposed(seconds) <= whole
    assert exposed(math.inf) == pytest.approx(whole if size <= plan.BUCKET else whole * plan.BUCKET / size)


def test_a_ring_is_as_quick_as_its_slowest_link() -> None:
    rates = devices.find("H100-SXM")
    assert (rates.between(8), rates.between(9)) == (450e9, 50e9)


@given(networks(), st.integers(1, 512), st.floats(0.01, 1))
def test_a_pace_by_the_roofline_is_exact_at_both_ends(n: Network, images: int, share: float) -> None:
    pace = plan.pace(n, machine(), images, share)
    for k in (1, images):
        assert pace.images(k, images) == pytest.approx(plan.training_roofline(n, machine(), k) / share)
    assert pace.fixed >= 0
    assert pace.per_image >= 0


def test_the_roofline_takes_the_longer_of_arithmetic_and_traffic() -> None:
    n = Network(
        **dict.fromkeys(("params", "trainable", "buffers", "pass_bytes", "states", "macs", "image_bytes", "kept_bytes"), 1),
        passing_bytes=0,
        inference_bytes=0,
        averaged=False,
        precision="fp32",
        layers=(Layer(10**9, 0, 10), Layer(10, 1000, 10**8 + 1000)),
    )
    rates = machine()  # 10^12 FLOP/s, 10^11 bytes a second
    assert plan.roofline(n, rates, 2) == pytest.approx(2e-3 + (1000 + 2e8) / 1e11)


@pytest.mark.parametrize(
    ("device", "precision", "found"), [("v100-16gb", "fp32", 367), ("a100-80gb", "tf32", 938), ("a100-80gb", "bf16", 2470)]
)
def test_a_plan_by_published_peaks_is_within_two_fifths_of_what_gpus_do(device: str, precision: Any, found: int) -> None:
    """Images a second of one GPU, ResNet-50 with the stride in its 3x3 convolutions: NVIDIA's DeepLearningExamples, resnet50v1.5."""
    run = ca.Run(model=models.describe("resnet50", "torchvision"), data="digits", recipe="quick")
    whole, _ = complete(run.but(recipe=run.recipe.but(batch=256)), CPU)
    pace = plan.pace(figures.network(whole, precision), devices.find(device), 256, plan.ATTAINED)
    assert found / 1.4 < 256 / (pace.images(256, 256) + pace.update) < found * 1.4


def test_two_measured_sizes_give_a_line() -> None:
    assert plan.through([(2, 0.3), (32, 1.8)]) == pytest.approx((0.2, 0.05))
    assert plan.through([(4, 2.0)]) == (0, 0.5)
    assert plan.through([(2, 1.0), (8, 0.9)]) == (0.9, 0)  # a larger pass that was quicker: no more than its own time
    assert plan.through([(2, 0.1), (8, 1.0)])[0] >= 0


# The command


@pytest.fixture(scope="module")
def quick_measures() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in ((devices, "SECONDS", 0.02), (probe, "SECONDS", 0.1), (probe, "LONGEST", 0.1)):
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
    run, _ = complete(small_run(), CPU)
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
    file = stored(small_run().but(precision="bf16"), tmp_path / "run.json")
    assert main(["plan", str(file), "--device", "t4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["precision"] == "fp32"
    assert any("the run says bf16" in note for note in found["notes"])


@pytest.mark.usefixtures("quick_measures")
def test_a_complete_run_is_planned_without_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = complete(small_run(), CPU)
    assert run.data.content is not None
    file = stored(run.but(data=run.data.but(name="folder:/nowhere")), tmp_path / "run.json")
    assert main(["plan", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"]["loader_images_per_second"] is None
    assert any("the data is not read" in note for note in found["notes"])
    assert main(["plan", str(stored(small_run().but(data=Data("folder:/nowhere")), tmp_path / "run.json"))]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 2  # what it does, and the error


@pytest.mark.usefixtures("quick_measures")
def test_what_does_not_fit_is_said_and_not_an_error(
    run_json: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(devices.PUBLISHED, "t4", replace(devices.PUBLISHED["t4"], memory=1_001_000_000))
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
        probe.opened(run.but(model=models.describe("unet")), CPU)


def test_every_published_device_names_its_source_and_has_fp32() -> None:
    for key, rates in devices.PUBLISHED.items():
        assert devices.find(rates.name).name == rates.name
        assert rates.origin == "published"
        assert "datasheet" in rates.source or "whitepaper" in rates.source
        assert rates.flops["fp32"] > 1e12
        assert rates.link >= rates.network
        assert key == key.lower()
        assert msgspec.json.encode(rates)


# Against a real training


def real_run(model: str, epochs: int) -> Run:
    run = ca.Run(model=model, data="digits")
    return run.but(recipe=run.recipe.but(budget=recipes.Epochs(epochs), batch=64), log_every=11)


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
