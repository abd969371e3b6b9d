"""The recipe `quick` follows the size of the data set, except in what the user has set."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import convatlas as ca
from convatlas import models, recipes
from convatlas.cli.main import main
from convatlas.errors import UsageError
from convatlas.optim.clipping import ClipNorm
from convatlas.optim.optimizers import SGD
from convatlas.recipes import Epochs, Recipe
from convatlas.training.options import run_from_options
from convatlas.training.resolve import resolve_run
from convatlas.training.run import Run

CPU = torch.device("cpu")


def quick_for(network: str, images: int) -> Recipe:
    entry = models.get_entry(network)
    return recipes.fit_to_data(recipes.get_recipe("quick", entry), entry, images)


def finetune_for(network: str, images: int) -> Recipe:
    entry = models.get_entry(network)
    return recipes.fit_to_data(recipes.get_recipe("finetune", entry), entry, images)


def rate(recipe: Recipe) -> float:
    assert isinstance(recipe.optimizer, SGD)
    return recipe.optimizer.lr


def resolved(run: Run) -> Run:
    return resolve_run(run, CPU).run


@pytest.mark.parametrize("images", [1, 9, 80, 349, 1438, 5000])
@pytest.mark.parametrize("network", ["lenet5", "resnet20_cifar", "resnet18", "vgg11"])
def test_a_small_set_is_trained_on_for_500_steps_at_least(network: str, images: int) -> None:
    recipe = quick_for(network, images)
    steps_per_epoch = max(1, images // recipe.batch)
    assert recipe.budget.steps(steps_per_epoch) >= 500
    assert recipe.budget.steps(steps_per_epoch) <= 3200
    assert recipe.adaptive == ()


def test_smaller_batches_have_the_rate_of_the_rule_and_clipped_gradients() -> None:
    small, large = quick_for("resnet20_cifar", 349), quick_for("resnet20_cifar", 55_000)
    assert (large.batch, rate(large), large.clip) == (128, 0.2, None)
    assert small.batch == 32
    assert rate(small) == pytest.approx(0.05)
    assert isinstance(small.clip, ClipNorm)
    assert quick_for("lenet5", 349).clip is None  # its loss has far larger gradients


def test_networks_without_batch_norm_have_a_tenth_of_the_rate_and_hes_first_weights() -> None:
    for network in ("alexnet", "vgg11", "googlenet", "zfnet"):
        recipe = quick_for(network, 55_000)
        assert rate(recipe) / recipe.batch <= 0.02 / 128
        assert recipe.init == "he"
    finetune = recipes.get_recipe("finetune", models.get_entry("vgg11"))
    assert rate(finetune) <= 0.001
    for network in ("vgg11_bn", "resnet18", "mobilenet_v1", "inception_v3"):
        assert quick_for(network, 55_000).init == "default"


@pytest.mark.parametrize("network", ["lenet5", "resnet20_cifar", "resnet18", "vgg11"])
def test_fine_tuning_at_its_low_rate_has_a_thousand_steps_on_a_small_set(network: str) -> None:
    recipe = finetune_for(network, 1438)
    assert recipe.budget.steps(1438 // recipe.batch) == 1000
    assert finetune_for(network, 55_000).budget == Epochs(3)


def test_a_large_set_is_trained_on_as_before() -> None:
    recipe = quick_for("resnet20_cifar", 55_000)
    assert (recipe.batch, rate(recipe), recipe.budget, recipe.clip) == (128, 0.2, Epochs(6), None)
    assert quick_for("lenet5", 55_000).budget == Epochs(20)


def test_a_run_that_uses_no_later_field_has_the_id_of_version_0_2_0() -> None:
    run = resolved(Run(model="lenet5", data="digits", recipe="small").replace(precision="fp32"))
    assert run.id == "14051630c9f5d3f6e61b3e5f0ce86c79757b87ff7921d60cee3685ef62aac8e2"
    balanced = run.replace(recipe=run.recipe.replace(sampling="balanced"))
    assert balanced.id != run.id


def test_what_the_user_sets_stays() -> None:
    def run(batch: int | None = None, epochs: float | None = None, *overrides: str) -> Run:
        return resolved(
            run_from_options("resnet20_cifar", "digits", batch=batch, epochs=epochs, overrides=overrides).run
        )

    assert (run().recipe.batch, run().steps) == (32, 500)
    assert run(128).recipe.batch == 128
    assert (rate(run(128).recipe), run(128).recipe.clip, run(128).steps) == (0.2, None, 500)
    assert run(None, 2).steps == 2 * (1438 // 32)
    assert run(None, 6).steps == 6 * (1438 // 32)
    assert rate(run(None, None, "recipe.optimizer.lr=0.02").recipe) == 0.02
    assert run(None, None, "recipe.batch=128").recipe.batch == 128
    assert run(None, None, "recipe.clip=null").recipe.clip is None
    own = Run(model="resnet20_cifar", data="digits")
    own = own.replace(recipe=own.recipe.replace(batch=64, budget=Epochs(1)))
    assert (resolved(own).recipe.batch, resolved(own).steps) == (64, 22)


def test_a_complete_run_stays_as_it_is_and_says_what_was_adapted() -> None:
    run = resolved(Run(model="resnet20_cifar", data="digits"))
    assert resolved(run) == run
    assert any("batch 128 became 32" in note and "0.2 became 0.05" in note for note in run.notes)
    assert any("500 steps" in note and "11.36 epochs of 44 in place of 6" in note for note in run.notes)


def test_a_small_set_is_validated_and_saved_about_fifty_times(tmp_path: Path) -> None:
    for label in range(2):
        for split, count in (("train", 20), ("val", 4), ("test", 4)):
            folder = tmp_path / "set" / split / str(label)
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("L", (32, 32), 99 * label + number).save(folder / f"{number}.png")
    run = resolved(Run(model="lenet5", data=f"folder:{tmp_path / 'set'}"))
    assert (run.steps, run.steps_per_epoch) == (500, 1)
    assert run.steps / run.steps_per_validation == 50
    assert run.save_every == run.steps_per_validation
    large = resolved(Run(model="lenet5", data="digits", recipe="paper"))
    assert large.steps_per_validation == large.steps_per_epoch


def test_finetune_without_weights_is_refused_with_what_to_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["train", "lenet5", "--data", "digits", "--recipe", "finetune", "--out", str(out)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "--weights FILE" in error
    assert "--recipe quick" in error
    assert error.count("\n") == 1
    assert not out.exists()
    with pytest.raises(UsageError, match="--weights FILE"):
        ca.train(Run(model="lenet5", data="digits", recipe="finetune"), out=out)
