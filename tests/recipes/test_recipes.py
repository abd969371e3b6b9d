"""The recipes: one for every network, with the papers' numbers, and they fit their networks."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

import convatlas as ca
from convatlas import models, recipes
from convatlas.data.transforms.normalize import Normalizer
from convatlas.errors import UsageError
from convatlas.optim.losses import PixelCrossEntropy
from convatlas.optim.optimizers import set_lr
from convatlas.optim.plateau import PlateauState
from convatlas.recipes import RECIPES_BY_PATTERN, Recipe
from convatlas.storage.records import from_json, to_json
from convatlas.training.objective import Objective

# Every paper's recipe and its small companion: recipe -> (the first network that uses it, kind)
CASES: dict[str, tuple[str, str]] = {}
for _name in ca.list_models():
    for _kind in ("paper", "small"):
        CASES.setdefault(recipes.get_recipe(_kind, models.get_entry(_name)).name, (_name, _kind))
PARAMETERS = [pytest.param(name, kind, id=recipe) for recipe, (name, kind) in CASES.items()]


def paper_recipe(name: str) -> Recipe:
    return recipes.get_recipe("paper", models.get_entry(name))


def test_every_network_has_the_recipe_of_its_paper() -> None:
    paper_recipes = [paper_recipe(name) for name in ca.list_models()]
    assert set(CASES) >= {recipe.name for recipe in paper_recipes}
    assert all(recipe.source for recipe in paper_recipes)


@pytest.mark.parametrize(("name", "kind"), PARAMETERS)
def test_a_recipe_round_trips_through_json(name: str, kind: str) -> None:
    recipe = recipes.get_recipe(kind, models.get_entry(name))
    assert from_json(to_json(recipe), Recipe, "") == recipe


@pytest.mark.parametrize(("name", "kind"), PARAMETERS)
def test_a_recipe_takes_three_steps_at_its_own_shapes(name: str, kind: str) -> None:
    """On meta tensors, with a full micro-batch: every record of the recipe fits the network at full size."""
    entry = models.get_entry(name)
    recipe = recipes.get_recipe(kind, entry)
    with torch.device("meta"):
        model = models.build(models.get_architecture(name, "paper", **recipe.network))
        channels, *size = entry.input
        image_size = recipe.network.get("image_size")
        size = [image_size] * 2 if isinstance(image_size, int) else size
        images = torch.zeros(recipe.micro_batch or recipe.batch, channels, *size, dtype=torch.uint8)
        grid = model(images[:2].float()).shape[2:]
        targets = torch.zeros(len(images), *grid, dtype=torch.int64)
        normalizer = Normalizer(torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1))
        objective = Objective(model, normalizer, recipe.loss, recipe.auxiliary)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    optimizer = recipe.optimizer.build(model)
    for step in range(3):
        set_lr(optimizer, recipe.lr_at(step / 3, PlateauState()))
        loss, logits = objective(images, targets)
        assert loss.shape == ()
        assert logits.shape[:2] == (len(images), entry.default_arguments()["num_classes"])
        loss.backward()
        assert all(p.grad is not None for p in model.parameters()) or not recipe.auxiliary
        if recipe.clip is not None:
            recipe.clip(model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert {name: p.shape for name, p in model.named_parameters()} == shapes


def lrs_at(recipe: Recipe, budget: float, positions: tuple[float, ...]) -> list[float]:
    """The learning rates at positions of a budget, both in epochs or in steps."""
    return [recipe.lr_at(position / budget, PlateauState()) for position in positions]


def test_inceptions_rate_falls_by_six_percent_every_two_epochs() -> None:
    lrs = lrs_at(paper_recipe("inception_v3"), 100, (0, 1.99, 2, 4, 98, 99.9))
    assert lrs == pytest.approx([0.045 * 0.94**n for n in (0, 0, 1, 2, 49, 49)])


def test_googlenets_rate_falls_by_four_percent_every_eight_epochs() -> None:
    recipe = paper_recipe("googlenet")
    assert isinstance(recipe.budget, recipes.Epochs)
    lrs = lrs_at(recipe, recipe.budget.count, (0, 7.9, 8, 16))
    assert lrs == pytest.approx([0.0015, 0.0015, 0.00144, 0.0013824])


def test_senets_rate_falls_in_steps_and_shufflenets_linearly() -> None:
    lrs = lrs_at(paper_recipe("se_resnet50"), 100, (0, 29.9, 30, 60, 90))
    assert lrs == pytest.approx([0.6, 0.6, 0.06, 0.006, 0.0006])
    lrs = lrs_at(paper_recipe("shufflenet_v1"), 300_000, (0, 150_000, 299_999))
    assert lrs == pytest.approx([0.5, 0.25, 0.5 / 300_000])


@pytest.mark.parametrize(("name", "times"), [("alexnet", 3), ("vgg16", 3), ("resnet50", 9)])
def test_a_constant_error_divides_the_rate_as_often_as_the_paper(name: str, times: int) -> None:
    recipe = paper_recipe(name)
    assert recipe.plateau is not None
    state = PlateauState()
    for _ in range(60):
        state = recipe.plateau.next_state(state, 40.0)
    assert recipe.lr_at(0.5, state) == pytest.approx(recipe.optimizer.lr * 0.1**times)


def test_another_batch_scales_the_rate_by_the_rule_or_is_refused() -> None:
    resnet = paper_recipe("resnet50")
    assert resnet.at_batch(1024).optimizer.lr == pytest.approx(0.4)
    assert resnet.replace(batch_rule="sqrt").at_batch(1024).optimizer.lr == pytest.approx(0.2)
    assert resnet.at_batch(256) == resnet
    message = r"lenet5 is for batches of 1, and no rule .* --set recipe.batch=128 recipe.optimizer.lr=RATE"
    with pytest.raises(UsageError, match=message):
        paper_recipe("lenet5").at_batch(128)


def test_small_recipes_list_their_reductions() -> None:
    for paper, small in RECIPES_BY_PATTERN.values():
        assert small.source.split(",")[0] == paper.source.split(",")[0]
        assert {"schedule"} <= set(small.reduced)
        assert ("width" in small.network) == ("width" in small.reduced)
        assert ("image_size" in small.network) == ("image" in small.reduced)


def test_the_pixel_loss_is_the_weighted_mean_over_pixels_without_ignored_ones() -> None:
    loss = PixelCrossEntropy()
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    targets = torch.randint(0, 3, (2, 4, 5), dtype=torch.uint8)
    targets[0, 2, 2] = 255
    weights = torch.rand(2, 4, 5)
    class_weights = torch.tensor([0.5, 2.0, 3.0])

    def image_loss(image: int, weight: Callable[[int, int], float]) -> float:
        log_p = logits[image].log_softmax(0)
        total = total_weight = 0.0
        for y, x in product(range(4), range(5)):
            if targets[image, y, x] != 255:
                total += -float(log_p[int(targets[image, y, x]), y, x]) * weight(y, x)
                total_weight += weight(y, x)
        return total / total_weight

    def expect(actual: Tensor, weight: Callable[[int, int, int], float]) -> None:
        expected = [image_loss(n, lambda y, x, n=n: weight(n, y, x)) for n in (0, 1)]  # type: ignore[misc]
        torch.testing.assert_close(actual.double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-6)

    expect(loss(logits, targets), lambda n, y, x: 1.0)
    expect(
        loss(logits, targets, class_weights), lambda n, y, x: float(class_weights[targets[n, y, x].long()])
    )
    weighted_targets = torch.stack([targets.float(), weights], 1)
    expect(loss(logits, weighted_targets), lambda n, y, x: float(weights[n, y, x]))
    assert loss(logits, torch.full_like(targets, 255)).tolist() == [0, 0]
