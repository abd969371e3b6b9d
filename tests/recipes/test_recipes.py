"""The recipes are the papers': complete, for every network, at the printed numbers, and they fit the networks that they are for."""

import pytest
import torch
from torch import Tensor

import convatlas as ca
from convatlas import models, recipes
from convatlas.data.transforms.normalize import Normalizer
from convatlas.errors import UsageError
from convatlas.optim.optimizers import set_lr
from convatlas.optim.plateau import Watch
from convatlas.recipes import PAPERS, Recipe
from convatlas.storage.records import from_json, to_json
from convatlas.training.objective import Objective

# The paper's recipe and its small companion, each with the first network that it is for
CASES: dict[str, tuple[str, str]] = {}
for _name in ca.list_models():
    for _kind in ("paper", "small"):
        if _kind == "paper" or models.get_entry(_name).task == "classification":
            CASES.setdefault(recipes.get_recipe(_kind, models.get_entry(_name)).name, (_name, _kind))
EVERY = [pytest.param(name, kind, id=recipe) for recipe, (name, kind) in CASES.items()]


def test_every_network_has_the_recipe_of_its_paper_and_every_classifier_a_small_one() -> None:
    found = {name: recipes.get_recipe("paper", models.get_entry(name)) for name in ca.list_models()}
    assert set(CASES) >= {recipe.name for recipe in found.values()}
    assert all(recipe.source for recipe in found.values())
    with pytest.raises(UsageError, match="masks are not read yet"):
        recipes.get_recipe("small", models.get_entry("unet"))


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_a_recipe_survives_its_file(name: str, kind: str) -> None:
    recipe = recipes.get_recipe(kind, models.get_entry(name))
    assert from_json(to_json(recipe), Recipe, "") == recipe


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_a_recipe_takes_three_steps_at_its_own_shapes(name: str, kind: str) -> None:
    """On meta tensors, as many images as it takes together: every part of it must fit the network at full size."""
    entry = models.get_entry(name)
    recipe = recipes.get_recipe(kind, entry)
    with torch.device("meta"):
        model = models.build(models.get_architecture(name, "paper", **recipe.network))
        channels, *size = entry.input
        asked = recipe.network.get("image_size")
        size = [int(asked)] * 2 if isinstance(asked, int) else size
        images = torch.zeros(recipe.micro_batch or recipe.batch, channels, *size, dtype=torch.uint8)
        grid = model(images[:2].float()).shape[2:]
        targets = torch.zeros(len(images), *grid, dtype=torch.int64)
        objective = Objective(model, Normalizer(torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1)), recipe.loss, recipe.auxiliary)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = recipe.optimizer.build(model)
    for step in range(3):
        set_lr(optimizer, recipe.rate(step / 3, Watch()))
        loss, logits = objective(images, targets)
        assert loss.shape == ()
        assert logits.shape[:2] == (len(images), entry.arguments("paper")["num_classes"])
        loss.backward()
        assert all(p.grad is not None for p in model.parameters()) or not recipe.auxiliary
        if recipe.clip is not None:
            recipe.clip(model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert {name: p.shape for name, p in model.named_parameters()} == {name: p.shape for name, p in before.items()}


def rates(recipe: Recipe, epochs: float, at: tuple[float, ...]) -> list[float]:
    return [recipe.rate(epoch / epochs, Watch()) for epoch in at]


def test_inceptions_rate_falls_by_six_percent_every_second_of_a_hundred_epochs() -> None:
    found = rates(recipes.get_recipe("paper", models.get_entry("inception_v3")), 100, (0, 1.99, 2, 4, 98, 99.9))
    assert found == pytest.approx([0.045, 0.045, 0.045 * 0.94, 0.045 * 0.94**2, 0.045 * 0.94**49, 0.045 * 0.94**49])


def test_googlenets_rate_falls_by_four_percent_every_eight_epochs() -> None:
    recipe = recipes.get_recipe("paper", models.get_entry("googlenet"))
    assert isinstance(recipe.budget, recipes.Epochs)
    found = rates(recipe, recipe.budget.count, (0, 7.9, 8, 16))
    assert found == pytest.approx([0.0015, 0.0015, 0.00144, 0.0013824])


def test_senets_rate_is_divided_by_ten_every_thirty_epochs_and_shufflenets_falls_in_a_line() -> None:
    found = rates(recipes.get_recipe("paper", models.get_entry("se_resnet50")), 100, (0, 29.9, 30, 60, 90))
    assert found == pytest.approx([0.6, 0.6, 0.06, 0.006, 0.0006])
    found = rates(recipes.get_recipe("paper", models.get_entry("shufflenet_v1")), 300_000, (0, 150_000, 299_999))
    assert found == pytest.approx([0.5, 0.25, 0.5 / 300_000])


@pytest.mark.parametrize(("name", "times"), [("alexnet", 3), ("vgg16", 3), ("resnet50", 9)])
def test_where_the_error_stands_still_the_rate_is_divided_by_ten_as_often_as_the_paper_says(name: str, times: int) -> None:
    recipe = recipes.get_recipe("paper", models.get_entry(name))
    assert recipe.plateau is not None
    watch = Watch()
    for _ in range(60):
        watch = recipe.plateau.next(watch, 40.0)
    assert recipe.rate(0.5, watch) == pytest.approx(recipe.optimizer.lr * 0.1**times)


def test_another_batch_takes_the_rate_along_by_the_rule_or_is_refused() -> None:
    resnet, lenet = recipes.get_recipe("paper", models.get_entry("resnet50")), recipes.get_recipe("paper", models.get_entry("lenet5"))
    assert resnet.at_batch(1024).optimizer.lr == pytest.approx(0.4)
    assert resnet.replace(batch_rule="square root").at_batch(1024).optimizer.lr == pytest.approx(0.2)
    assert resnet.at_batch(256) == resnet
    with pytest.raises(UsageError, match=r"lenet5 is for batches of 1, and no rule .* --set recipe.batch=128 recipe.optimizer.lr=RATE"):
        lenet.at_batch(128)


def test_what_small_recipes_reduce_is_named() -> None:
    for papers, small in PAPERS.values():
        if small is None:
            continue
        assert small.source.split(",")[0] == papers.source.split(",")[0]
        assert {"schedule"} <= set(small.reduced)
        assert ("width" in small.network) == ("width" in small.reduced)
        assert ("image_size" in small.network) == ("image" in small.reduced)


def test_the_pixel_loss_counts_the_centre_that_the_network_labels_and_leaves_out_what_is_to_be_ignored() -> None:
    loss = recipes.get_recipe("paper", models.get_entry("unet")).loss
    logits, targets = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randint(0, 3, (2, 8, 8))
    targets[0, 2, 2] = 255

    def expected(image: int) -> Tensor:
        log_p = logits[image].log_softmax(0)
        places = [(y, x) for y in range(4) for x in range(4) if targets[image, y + 2, x + 2] != 255]
        return -sum(log_p[targets[image, y + 2, x + 2], y, x] for y, x in places) / len(places)  # type: ignore[return-value]

    torch.testing.assert_close(loss(logits, targets).double(), torch.stack([expected(0), expected(1)]), rtol=1e-6, atol=1e-6)
