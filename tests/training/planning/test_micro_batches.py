"""The parts of a batch: as even as possible, none of one image for a network that normalises over images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.rank_jobs import finish_ranks, start_ranks, write_run_file
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import convatlas as ca
from convatlas import models
from convatlas.cli.main import main
from convatlas.data import Split
from convatlas.data.dataset import ArrayImages
from convatlas.data.loading.labeled_samples import LabeledSamples
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.errors import UsageError
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.runtime.runtime import Runtime
from convatlas.training.objective import Objective
from convatlas.training.planning.micro_batches import check_micro_batches
from convatlas.training.resolve import resolve_run
from convatlas.training.run import Run
from convatlas.training.step import accumulate_gradients, micro_batch_sizes

CPU = torch.device("cpu")


def test_33_images_in_micro_batches_of_32_are_17_and_16() -> None:
    assert micro_batch_sizes(33, 32) == (17, 16)
    assert micro_batch_sizes(256, 32) == (32,) * 8
    assert micro_batch_sizes(7, None) == (7,)


@given(st.integers(1, 300), st.integers(1, 300))
def test_micro_batches_are_even_few_and_never_larger_than_allowed(images: int, micro_batch: int) -> None:
    sizes = micro_batch_sizes(images, micro_batch)
    assert sum(sizes) == images
    assert max(sizes) <= micro_batch
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-images // micro_batch)
    if micro_batch > 2 and images > 1:
        assert min(sizes) > 1


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 4), st.integers(2, 8), st.integers(0, 99))
def test_no_rank_step_or_remainder_trains_on_one_image_unless_the_batch_is_one_per_rank(
    images: int, share: int, ranks: int, micro_batch: int, step: int
) -> None:
    """The last images of an epoch that do not fill a batch are left for another epoch."""
    batch = share * ranks
    if batch > images:
        return
    split = make_split(images)
    preprocessing = fixed_size_preprocessing(1, (4, 4), (4, 4))
    for rank in range(ranks):
        batches = TrainBatches(LabeledSamples(split, preprocessing), (), batch, 0, rank, ranks)
        loaded = batches[step]
        assert not isinstance(loaded, Exception)
        assert len(loaded.targets) == share
        smallest = min(micro_batch_sizes(share, micro_batch))
        assert smallest > 1 or share == 1 or (micro_batch == 2 and share % 2)


def make_split(count: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return Split(ArrayImages(images.numpy()), labels.numpy())


class WeightedLoss(nn.Module):
    """Cross-entropy in float64 with the signature of the package's losses, which compute in float32."""

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        return nn.functional.cross_entropy(logits, targets, weights, reduction="none")

    def sample_weights(self, targets: Tensor, weights: Tensor) -> Tensor:
        return weights[targets]


@dataclass(frozen=True)
class RankOfSeveral(Ranks):
    """One of several ranks, whose sums over all ranks are `total`."""

    total: float = 0.0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return torch.tensor(self.total, dtype=torch.float64)


@settings(max_examples=40)
@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 3),
    st.sampled_from([None, (0.2, 1.0, 5.0)]),
)
def test_the_gradients_of_all_parts_of_all_ranks_add_up_to_those_of_the_whole_batch(
    share: int, micro_batch: int, num_ranks: int, class_weights: tuple[float, ...] | None
) -> None:
    images = share * num_ranks
    weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64)
    split = make_split(images)
    preprocessing = fixed_size_preprocessing(1, (4, 4), (4, 4))
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model.heads = ()
    normalizer = Normalizer(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    loss_function: Any = WeightedLoss()
    objective = Objective(model, normalizer, loss_function, class_weights=weights).double()
    forward_backward = Runtime(CPU, "fp32", threads=1).forward_backward(objective, print)
    labels = torch.from_numpy(split.labels)
    total = 0.0 if weights is None else float(weights[labels].sum())
    losses = []
    for rank in range(num_ranks):  # the gradients of all ranks are added here; training takes their mean
        batches = TrainBatches(LabeledSamples(split, preprocessing), (), images, 0, rank, num_ranks)
        batch = batches[0]
        assert not isinstance(batch, Exception)
        loss, _ = accumulate_gradients(
            forward_backward,
            batches,
            batch,
            0,
            micro_batch,
            lambda loss, share: None,
            objective.sample_weights(batch.targets),
            RankOfSeveral(rank, num_ranks, total=total),
        )
        losses.append(float(loss))
    gradients = [p.grad / num_ranks for p in model.parameters()]
    model.zero_grad()
    pixels = torch.from_numpy(split.images.array)  # type: ignore[attr-defined]
    expected = nn.functional.cross_entropy(model(normalizer(pixels).double()), labels, weights)
    torch.autograd.backward(expected)
    assert sum(losses) / num_ranks == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradients, [p.grad for p in model.parameters()], rtol=1e-10, atol=1e-12)


# Refused before training


def inception(**recipe_fields: Any) -> Run:
    architecture = models.get_architecture("inception_v3", width=0.1, image_size=75)
    run = ca.Run(model=architecture, data="digits", recipe="paper")
    return run.replace(recipe=run.recipe.replace(**recipe_fields), precision="fp32")


@pytest.mark.parametrize(
    ("fields", "ranks", "message"),
    [
        (
            {"batch": 1},
            1,
            r"a batch of 1 is 1 image, and \S+ of inception_v3 cannot .* for example --batch 2$",
        ),
        ({"batch": 2}, 2, r"a batch of 2 is 1 image for each of 2 ranks, .* --batch 4$"),
        (
            {"batch": 8, "micro_batch": 1},
            1,
            r"in parts of 1 \+ 1 \+ \.\.\. \+ 1, .* --set recipe.micro_batch=2$",
        ),
        ({"batch": 5, "micro_batch": 2}, 1, r"in parts of 2 \+ 2 \+ 1, .* --set recipe.micro_batch=3$"),
    ],
)
def test_a_part_of_one_image_that_is_normalised_is_refused_with_what_to_type(
    fields: dict[str, Any], ranks: int, message: str
) -> None:
    resolved = resolve_run(inception(**fields), CPU)
    with pytest.raises(UsageError, match=message):
        check_micro_batches(resolved.run, resolved.network, ranks)


def test_33_images_train_in_two_parts_and_one_image_is_fine_without_batch_norm() -> None:
    resolved = resolve_run(inception(batch=33, micro_batch=32), CPU)
    check_micro_batches(resolved.run, resolved.network, 1)
    resolved = resolve_run(ca.Run(model="lenet5", data="digits", recipe="paper"), CPU)
    assert resolved.run.recipe.batch == 1
    check_micro_batches(resolved.run, resolved.network, 1)


def test_frozen_statistics_and_statistics_of_all_ranks_allow_one_image_each() -> None:
    resolved = resolve_run(inception(batch=1).replace(frozen_statistics=True), CPU)
    check_micro_batches(resolved.run, resolved.network, 1)
    resolved = resolve_run(inception(batch=2).replace(sync_batch_norm=True), CPU)
    check_micro_batches(resolved.run, resolved.network, 2)


def test_train_and_plan_refuse_a_single_image_with_exit_2_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_run_file(inception(batch=1), tmp_path / "run.json")
    for command in (["train", str(file), "--out", str(tmp_path / "out")], ["plan", str(file)]):
        assert main(command) == 2
        assert "cannot normalise a single image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_ranks_with_one_image_each_are_refused_before_training(tmp_path: Path) -> None:
    file = write_run_file(inception(batch=2), tmp_path / "run.json")
    job = (main, ["train", str(file), "--out", str(tmp_path / "out")])
    results = finish_ranks(start_ranks(tmp_path, [job, job]))
    assert {result.exit_code for result in results} == {2}
    assert "1 image for each of 2 ranks" in "".join(result.stderr for result in results)
    assert not (tmp_path / "out").exists()
