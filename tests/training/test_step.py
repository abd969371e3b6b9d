"""A training step: micro-batches, auxiliary heads, averages, plateaus, constraints. And refused runs."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers.planning import device_spec
from helpers.small_runs import small_run
from torch import Tensor

import convatlas as ca
from convatlas import models, recipes
from convatlas.benchmark import training as benchmark
from convatlas.cli.main import main
from convatlas.data import open_dataset
from convatlas.data.loading.batch import Batch
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.labeled_samples import LabeledSamples
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.normalize import PixelRange
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.errors import UsageError, UserError
from convatlas.evaluation.predict import predict_split
from convatlas.optim.ema import ExponentialMovingAverage
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.plateau import ReduceOnPlateau
from convatlas.optim.schedules import Constant
from convatlas.runtime.runtime import Runtime
from convatlas.storage import checked_safetensors
from convatlas.training.objective import Objective
from convatlas.training.planning import profiler
from convatlas.training.planning.workload import model_cost
from convatlas.training.resolve import resolve_run
from convatlas.training.step import TrainStep, accumulate_gradients

CPU = torch.device("cpu")


class DigitsTraining(NamedTuple):
    objective: Objective
    data: TrainBatches

    @property
    def batch(self) -> Batch:
        """The first batch, of 50 images."""
        batch = self.data[0]
        assert not isinstance(batch, Exception)
        return batch


def digits_training(model: models.Network, size: int, **fields: Any) -> DigitsTraining:
    split = open_dataset("digits").splits["train"]
    preprocessing = fixed_size_preprocessing(1, (8, 8), (size, size))
    normalizer = PixelRange(low=0, high=1).fit(split.images, preprocessing)
    objective = Objective(model, normalizer, CrossEntropy(), **fields)
    return DigitsTraining(objective, TrainBatches(LabeledSamples(split, preprocessing), (), 50, seed=0))


class BackwardOutput(NamedTuple):
    loss: Tensor
    logits: Tensor
    gradients: list[Tensor]
    shares_done: list[float]


def run_backward(training: DigitsTraining, micro_batch: int | None) -> BackwardOutput:
    """Forward and backward of the first batch, from gradients of zero."""
    objective = training.objective
    objective.zero_grad()
    shares_done: list[float] = []
    forward_backward = Runtime(CPU, "fp32").forward_backward(objective, print)
    loss, logits = accumulate_gradients(
        forward_backward,
        training.data,
        training.batch,
        0,
        micro_batch,
        lambda micro_batch_loss, share: shares_done.append(share),
    )
    gradients = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
    return BackwardOutput(loss, logits, gradients, shares_done)


@pytest.mark.parametrize("micro_batch", [50, 25, 16, 1])
def test_micro_batches_give_the_gradients_of_the_full_batch(micro_batch: int) -> None:
    torch.manual_seed(0)
    training = digits_training(models.create_model("lenet5", width=0.5, num_classes=10), 32)
    expected = run_backward(training, None)
    output = run_backward(training, micro_batch)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert expected.gradients
    for gradient, expected_gradient in zip(output.gradients, expected.gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)
    assert len(output.shares_done) == -(-50 // micro_batch)
    assert output.shares_done[-1] == 1


def test_auxiliary_heads_count_by_their_weights() -> None:
    model = models.create_model("googlenet", width=0.125, num_classes=10, in_chans=1)
    training = digits_training(model, 32, auxiliary={"aux1": 0.3, "aux2": 0.2})
    objective, batch = training.objective, training.batch
    objective.eval()  # no dropout: the two forwards are the same
    outputs = model.training_outputs(objective.normalizer(batch.images))
    losses = {
        name: torch.nn.functional.cross_entropy(logits, batch.targets) for name, logits in outputs.items()
    }
    expected = losses["logits"] + 0.3 * losses["aux1"] + 0.2 * losses["aux2"]
    torch.testing.assert_close(objective(batch.images, batch.targets).loss, expected)


def test_the_average_is_evaluated_and_changes_only_by_updates() -> None:
    model = models.create_model("resnet20_cifar", width=0.25, image_size=16, num_classes=10, in_chans=1)
    training = digits_training(model, 16, ema=ExponentialMovingAverage(decay=0.5, warmup=False))
    objective, images = training.objective, training.batch.images
    trained = {id(parameter) for parameter in objective.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in model.parameters()}
    objective.eval()
    before = objective.logits(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    assert torch.equal(objective.logits(images), before)
    objective.update_ema()
    assert not torch.equal(objective.logits(images), before)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the calls of the three parts of a step, from now on."""
    counter: Counter[str] = Counter()
    for name in ("prepare", "backward", "update"):
        method = getattr(TrainStep, name)

        def count(*arguments: Any, _name: str = name, _method: Any = method) -> Any:
            counter[_name] += 1
            return _method(*arguments)

        monkeypatch.setattr(TrainStep, name, count)
    return counter


def test_train_takes_each_of_its_steps_by_train_step(calls: Counter[str], tmp_path: Path) -> None:
    ca.train(small_run(epochs=1), out=tmp_path / "run")
    steps = 1438 // 32
    assert calls == {"prepare": steps, "backward": steps, "update": steps}


def test_the_plan_measures_the_steps_of_train(calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "SECONDS", 0.1)
    monkeypatch.setattr(profiler, "MAX_PASS_SECONDS", 0.1)
    run = resolve_run(small_run(), CPU).run
    profile = profiler.profile_steps(run, Runtime(CPU, "fp32"), model_cost(run, "fp32"), device_spec())
    assert profile is not None
    assert calls["prepare"] == calls["backward"] == calls["update"] >= 4


def test_the_benchmark_measures_the_steps_of_train(
    calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SECONDS", 0.01)
    monkeypatch.setattr(benchmark, "WARM_UP", 1)
    benchmark.measure_row("lenet5", 8, "ours")
    assert calls["prepare"] == calls["backward"] == calls["update"] >= 1 + benchmark.MIN_TIMINGS
    assert calls["prepare"] <= 1 + benchmark.MAX_TIMINGS


def short_run(recipe: str, model: str, **recipe_fields: Any) -> ca.Run:
    """An epoch of batches of 64 digits."""
    run = ca.Run(model=models.get_architecture(model, width=0.125), data="digits", recipe=recipe)
    changed = run.recipe.replace(budget=recipes.Epochs(1), batch=64).replace(**recipe_fields)
    return run.replace(recipe=changed, log_every=5, precision="fp32")


def read_tensors(file: Path) -> dict[str, Tensor]:
    return checked_safetensors.read_checked(file)[0]


def test_the_small_inception_saves_the_average_of_its_weights(tmp_path: Path) -> None:
    run = short_run("small", "inception_v3")
    assert run.model.arguments["field"] == 79
    assert run.recipe.auxiliary
    assert run.recipe.ema is not None
    out = ca.train(run, out=tmp_path / "run").out
    checkpoint = read_tensors(max((out / "checkpoints").iterdir()))
    saved = read_tensors(out / "model.safetensors")
    weight = "Conv2d_1a_3x3.conv.weight"
    assert torch.equal(saved[weight], checkpoint[f"ema.module.{weight}"])
    assert not torch.equal(saved[weight], checkpoint[f"model.{weight}"])
    assert checkpoint["ema.n_averaged"].item() == 1 + 1438 // 64
    assert not [
        name
        for name in checkpoint
        if name.split(".")[0] not in ("model", "ema", "optimizer", "running_totals")
    ]


def test_a_recipe_without_weights_for_the_heads_builds_none() -> None:
    run = resolve_run(ca.Run(model="googlenet", data="digits"), CPU).run
    assert run.model.arguments["aux"] is False
    assert any("no auxiliary heads" in note for note in run.notes)


def test_the_state_of_a_plateau_survives_a_resume(tmp_path: Path) -> None:
    plateau = ReduceOnPlateau(factor=0.5, patience=0)
    run = short_run(
        "quick", "lenet5", plateau=plateau, budget=recipes.Epochs(6), schedule=Constant()
    ).replace(save_every=22)
    out = ca.train(run, out=tmp_path / "run").out
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    errors = [100 - line["top1"] for line in lines if line.get("split") == "val"]
    best = errors[0]
    num_drops = 0
    expected = []
    for epoch, error in enumerate(errors):
        expected.append(run.recipe.optimizer.lr * 0.5**num_drops)
        if epoch and error >= best:
            num_drops += 1
        best = min(best, error)
    train_lines = [line for line in lines if line.get("split") == "train"]
    lr_by_epoch = {line["epoch"]: line["lr"] for line in train_lines if line["epoch"] == round(line["epoch"])}
    assert list(lr_by_epoch.values()) == pytest.approx(expected)
    before = (out / "metrics.jsonl").read_bytes()
    max((out / "checkpoints").iterdir()).unlink()
    (out / "model.safetensors").unlink()
    ca.train(run, out=out)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_the_filters_of_zfnet_stay_within_their_radius(tmp_path: Path) -> None:
    out = ca.train(short_run("small", "zfnet"), out=tmp_path / "run").out
    weights = read_tensors(out / "model.safetensors")
    filters = [tensor for name, tensor in weights.items() if name.startswith("conv") and tensor.dim() == 4]
    assert filters
    assert max(tensor.square().mean((1, 2, 3)).sqrt().max().item() for tensor in filters) <= 0.1 + 1e-6


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet20_cifar", r"weights the auxiliary head 'aux', but resnet20_cifar has none"),
        ("googlenet", r"'aux', but googlenet has aux1, aux2"),
    ],
)
def test_a_head_that_the_network_lacks_is_named_before_training(model: str, message: str) -> None:
    run = ca.Run(model=model, data="digits")
    with pytest.raises(UsageError, match=message):
        resolve_run(run.replace(recipe=run.recipe.replace(auxiliary={"aux": 0.4})), CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "paper", "--batch", "64"], "lenet5 is for batches of 1, and no rule scales"),
        (
            ["--recipe", "alexnet", "--set", "recipe.crop.crop=300"],
            "a crop of 300 does not fit into a square of 256",
        ),
        (
            ["--recipe", "vgg", "--set", "recipe.crop.crop=300"],
            "a crop of 300 does not fit into images whose shorter side is 256 to 512",
        ),
        (["--set", 'frozen=["C9"]'], "module of lenet5 to freeze 'C9'"),
    ],
)
def test_options_that_do_not_fit_are_one_line_and_nothing_is_written(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "lenet5", "--data", "digits", "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_batch_follows_the_data_and_the_rate_the_batch() -> None:
    architecture = models.get_architecture("inception_v3", width=0.1)
    run = resolve_run(ca.Run(model=architecture, data="digits", recipe="paper"), CPU).run
    assert run.recipe.batch == run.content.counts["train"] == 1438
    assert run.recipe.optimizer.lr == pytest.approx(0.045 * 1438 / 1600)
    assert run.recipe.micro_batch == 32
    assert any("batch 1600 became 1438" in note and "linear rule" in note for note in run.notes)


def test_data_that_has_changed_is_trained_on_only_by_force() -> None:
    run = resolve_run(ca.Run(model="lenet5", data="digits"), CPU).run
    content = run.content.replace(sha256="0" * 64)
    changed = run.replace(data=run.data.replace(content=content))
    message = r"content has changed \(sha256: .* -> .*\); train again, or continue all the same with --force"
    with pytest.raises(UserError, match=message):
        resolve_run(changed, CPU)
    forced = resolve_run(changed, CPU, force=True)
    assert forced.run.content == content
    assert len(forced.dataset.classes) == 10


def test_logits_that_are_not_finite_are_an_error_and_no_score() -> None:
    split = open_dataset("digits").splits["test"]
    source = EvalBatches(split, fixed_size_preprocessing(1, (8, 8), (8, 8)), 50)
    with pytest.raises(UserError, match="not finite, first for #0"):
        predict_split(lambda images: torch.full((len(images), 10), np.nan), source, CPU)


@pytest.mark.gpu
def test_a_step_on_a_cuda_device_is_timed(cuda: torch.device, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", "lenet5", "--row", "ours"]) == 0
    captured = capsys.readouterr()
    assert "no CUDA graph" not in captured.err
    assert json.loads(captured.out)["images_per_second"] > 1000
    assert torch.cuda.max_memory_allocated(cuda) > 0
