"""What a step takes besides: parts of a batch, auxiliary heads, averages, plateaus, the filters' radius; and what does not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import convatlas as ca
from convatlas import models, recipes
from convatlas.cli.main import main
from convatlas.data import open_dataset
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.normalize import PixelRange
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.errors import UsageError, UserError
from convatlas.optim.ema import ExponentialAverage
from convatlas.optim.losses import CrossEntropy
from convatlas.runtime.runtime import Runtime
from convatlas.storage import checked_safetensors
from convatlas.training.objective import Objective
from convatlas.training.resolve import resolve_run
from convatlas.training.step import accumulate_gradients

CPU = torch.device("cpu")


def digits(model: models.Network, size: int, **parts: Any) -> tuple[Objective, TrainBatches]:
    split = open_dataset("digits").splits["train"]
    geometry = fixed_size_preprocessing(1, (8, 8), (size, size))
    objective = Objective(model, PixelRange(low=0, high=1).fit(split.images, geometry), CrossEntropy(), **parts)
    return objective, TrainBatches(split, geometry, (), 50, seed=0)


def taken(objective: Objective, data: TrainBatches, micro_batch: int | None) -> tuple[Tensor, Tensor, list[float]]:
    objective.zero_grad()
    passed: list[float] = []
    batch = data[0]
    assert not isinstance(batch, Exception)
    function = Runtime(CPU, "fp32").forward_backward(objective, print)
    loss, logits = accumulate_gradients(function, data, batch, 0, micro_batch, lambda loss, share: passed.append(share))
    return loss, logits, passed


@pytest.mark.parametrize("micro_batch", [50, 25, 16, 1])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(micro_batch: int) -> None:
    torch.manual_seed(0)
    objective, data = digits(models.create_model("lenet5", width=0.5, num_classes=10), 32)
    whole, answers, _ = taken(objective, data, None)
    expected = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
    loss, logits, passed = taken(objective, data, micro_batch)
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(logits, answers, rtol=1e-4, atol=1e-4)
    for p, gradient in zip((p for p in objective.parameters() if p.grad is not None), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)
    assert len(passed) == -(-50 // micro_batch)
    assert passed[-1] == 1


def test_auxiliary_heads_count_by_their_weights() -> None:
    model = models.create_model("googlenet", width=0.125, num_classes=10, in_chans=1)
    objective, data = digits(model, 32, auxiliary={"aux1": 0.3, "aux2": 0.2})
    batch = data[0]
    assert not isinstance(batch, Exception)
    objective.eval()  # no dropout: the two forwards are the same
    found, _ = objective(batch.images, batch.targets)
    outputs = model.training_outputs(objective.normalizer(batch.images))
    parts = {name: torch.nn.functional.cross_entropy(logits, batch.targets) for name, logits in outputs.items()}
    torch.testing.assert_close(found, parts["logits"] + 0.3 * parts["aux1"] + 0.2 * parts["aux2"])


def test_the_average_is_what_is_evaluated_and_it_does_not_learn_by_itself() -> None:
    model = models.create_model("resnet20_cifar", width=0.25, image_size=16, num_classes=10, in_chans=1)
    objective, data = digits(model, 16, average=ExponentialAverage(decay=0.5, warm=False))
    assert {id(p) for p in objective.parameters() if p.requires_grad} == {id(p) for p in model.parameters()}
    batch = data[0]
    assert not isinstance(batch, Exception)
    objective.eval()
    before = objective.logits(batch.images)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    assert torch.equal(objective.logits(batch.images), before)
    objective.update_ema()
    assert not torch.equal(objective.logits(batch.images), before)


def small(recipe_name: str, model: str, **changes: Any) -> ca.Run:
    run = ca.Run(model=models.get_architecture(model, width=0.125), data="digits", recipe=recipe_name)
    return run.replace(recipe=run.recipe.replace(budget=recipes.Epochs(1), batch=64, **changes), log_every=5, precision="fp32")


def test_inceptions_small_companion_trains_its_head_and_saves_its_average(tmp_path: Path) -> None:
    run = small("small", "inception_v3")
    assert run.model.arguments["field"] == 79
    result = ca.train(run, out=tmp_path / "run")
    tensors, _ = checked_safetensors.read_checked(max((result.out / "checkpoints").iterdir()))
    saved, _ = checked_safetensors.read_checked(result.out / "model.safetensors")
    weight = "Conv2d_1a_3x3.conv.weight"
    assert torch.equal(saved[weight], tensors[f"average.module.{weight}"])
    assert not torch.equal(saved[weight], tensors[f"model.{weight}"])
    assert tensors["average.n_averaged"].item() == 1 + 1438 // 64


def test_a_recipe_without_weights_for_the_heads_builds_none(tmp_path: Path) -> None:
    run, _ = resolve_run(ca.Run(model="googlenet", data="digits"), CPU)
    assert run.model.arguments["aux"] is False
    assert any("no auxiliary heads" in note for note in run.notes)


def test_a_plateaus_memory_survives_a_resume(tmp_path: Path) -> None:
    from convatlas.optim.plateau import Plateau

    def run() -> ca.Run:
        base = small("quick", "lenet5", plateau=Plateau(factor=0.5, patience=0))
        return base.replace(
            recipe=base.recipe.replace(budget=recipes.Epochs(6), schedule=recipes.RECIPES["alexnet"].schedule), save_every=22
        )

    out = ca.train(run(), out=tmp_path / "run").out
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    errors = [100 - line["top1"] for line in lines if line["split"] == "val"]
    best, drops, expected = errors[0], 0, []
    for epoch, error in enumerate(errors):
        expected.append(run().recipe.optimizer.lr * 0.5**drops)
        if epoch and error >= best:
            drops += 1
        best = min(best, error)
    rates = {line["epoch"]: line["lr"] for line in lines if line["split"] == "train" and line["epoch"] == round(line["epoch"])}
    assert list(rates.values()) == pytest.approx(expected)
    newest = max((out / "checkpoints").iterdir())
    newest.unlink()
    (out / "model.safetensors").unlink()
    before = (out / "metrics.jsonl").read_bytes()
    ca.train(run(), out=out)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_zfnets_filters_stay_within_their_radius(tmp_path: Path) -> None:
    run = small("small", "zfnet")
    out = ca.train(run, out=tmp_path / "run").out
    tensors, _ = checked_safetensors.read_checked(out / "model.safetensors")
    filters = [t for name, t in tensors.items() if name.startswith("conv") and t.dim() == 4]
    assert filters
    assert max(t.square().mean((1, 2, 3)).sqrt().max().item() for t in filters) <= 0.1 + 1e-6


def test_a_head_that_the_network_lacks_is_named_before_training() -> None:
    run = ca.Run(model="resnet20_cifar", data="digits")
    with pytest.raises(UsageError, match=r"weights the auxiliary head 'aux', but resnet20_cifar has none"):
        resolve_run(run.replace(recipe=run.recipe.replace(auxiliary={"aux": 0.4})), CPU)
    run = ca.Run(model="googlenet", data="digits")
    with pytest.raises(UsageError, match=r"'aux', but googlenet has aux1, aux2"):
        resolve_run(run.replace(recipe=run.recipe.replace(auxiliary={"aux": 0.4})), CPU)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "paper", "--batch", "64"], "lenet5 is for batches of 1, and no rule says"),
        (["--recipe", "alexnet", "--set", "recipe.crop.crop=300"], "a crop of 300 does not fit into a square of 256"),
        (["--recipe", "vgg", "--set", "recipe.crop.crop=300"], "a crop of 300 does not fit into pictures whose shorter side is 256 to 512"),
        (["--set", 'frozen=["C9"]'], "module of lenet5 to be frozen"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "lenet5", "--data", "digits", "--out", str(tmp_path / "run"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_batch_follows_the_data_and_the_rate_follows_the_batch() -> None:
    run, _ = resolve_run(ca.Run(model=models.get_architecture("inception_v3", width=0.1), data="digits", recipe="paper"), CPU)
    assert run.recipe.batch == run.content.counts["train"] == 1438
    assert run.recipe.optimizer.lr == pytest.approx(0.045 * 1438 / 1600)
    assert run.recipe.micro_batch == 32
    assert any("batch 1600 became 1438" in note and "linear rule" in note for note in run.notes)


def test_data_that_has_changed_goes_on_only_by_force(tmp_path: Path) -> None:
    run, _ = resolve_run(ca.Run(model="lenet5", data="digits"), CPU)
    content = run.content.replace(digest="0" * 64)
    changed = run.replace(data=run.data.replace(content=content))
    with pytest.raises(UserError, match=r"content has changed \(digest: .* -> .*\); train anew, or continue all the same with --force"):
        resolve_run(changed, CPU)
    forced, dataset = resolve_run(changed, CPU, force=True)
    assert forced.content == content
    assert len(dataset.classes) == 10


def test_answers_that_are_not_finite_are_an_error_and_no_score() -> None:
    from convatlas.data.loading.eval_batches import EvalBatches
    from convatlas.evaluation.predict import predict_split

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
