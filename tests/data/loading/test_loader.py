import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from convatlas.data.dataset import ArrayImages, Split
from convatlas.data.images.decode import DecodedImage, EncodedImage
from convatlas.data.loading.batch import Batch
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.augment import Flip, PadCrop
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, size=(50, 1, 8, 8), dtype=np.uint8)
SPLIT = Split(ArrayImages(IMAGES), np.arange(50))
GEOMETRY = fixed_size_preprocessing(1, (8, 8), (8, 8))


def training(split: Split = SPLIT, seed: int = 0) -> TrainBatches:
    return TrainBatches(split, GEOMETRY, (PadCrop(2), Flip()), batch=8, seed=seed)


@pytest.mark.parametrize(("workers", "start"), [(1, 0), (2, 5)])
def test_batches_are_bit_identical_whatever_the_workers_and_wherever_one_starts(workers: int, start: int) -> None:
    alone = dict(iterate_batches(training(), 0, 14))
    for step, batch in iterate_batches(training(), start, 14, workers):
        assert torch.equal(batch.images, alone[step].images)
        assert torch.equal(batch.targets, alone[step].targets)


def test_an_epoch_holds_each_sample_at_most_once_and_leaves_others_out_each_time() -> None:
    epochs = [torch.cat([training()[step].targets for step in range(6 * e, 6 * e + 6)]).tolist() for e in range(3)]  # type: ignore[union-attr]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert len({frozenset(epoch) for epoch in epochs}) == 3


def test_evaluation_sees_every_sample_once_in_order_in_batches_of_one_shape() -> None:
    found = [batch for _, batch in iterate_batches(EvalBatches(SPLIT, GEOMETRY, 16), 0, 4)]
    assert {batch.images.shape for batch in found} == {(16, 1, 8, 8)}
    assert torch.cat([batch.targets for batch in found])[:50].tolist() == list(range(50))
    assert torch.cat([batch.indices for batch in found]).tolist() == list(range(50))


@dataclass(frozen=True)
class Killing:
    """Images whose reader dies, the first times it meets sample 20."""

    marks: Path
    deaths: int

    def __len__(self) -> int:
        return 50

    def name(self, index: int) -> str:
        return f"#{index}"

    def image(self, index: int) -> DecodedImage:
        if index == 20 and len(list(self.marks.iterdir())) < self.deaths:
            (self.marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return DecodedImage(IMAGES[index].transpose(1, 2, 0))


def test_a_worker_that_dies_is_replaced_and_its_batch_is_the_same(tmp_path: Path) -> None:
    alone = [batch.images for _, batch in iterate_batches(training(), 0, 12)]
    found = [batch.images for _, batch in iterate_batches(training(Split(Killing(tmp_path, 2), SPLIT.labels)), 0, 12, workers=1)]
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.equal(torch.stack(found), torch.stack(alone))


def test_workers_that_cannot_be_started_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = torch.utils.data.DataLoader.__iter__, iter([EOFError("unexpected EOF"), ConnectionResetError(), None])

    def at_the_third_time(loader: torch.utils.data.DataLoader[object]) -> object:  # a signal has ended the server that forks them
        if error := next(refused):
            raise error
        return start(loader)

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", at_the_third_time)
    assert [step for step, _ in iterate_batches(training(), 0, 4, workers=1)] == [0, 1, 2, 3]


def test_the_third_death_on_the_same_batch_ends_the_job(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="died at step"):
        list(iterate_batches(training(Split(Killing(tmp_path, 99), SPLIT.labels)), 0, 12, workers=1))


@dataclass(frozen=True)
class Damaged:
    """Images of which some cannot be read."""

    broken: tuple[int, ...]

    def __len__(self) -> int:
        return 50

    def name(self, index: int) -> str:
        return f"{index}.jpg"

    def image(self, index: int) -> DecodedImage | EncodedImage:
        return EncodedImage(b"no image", self.name(index)) if index in self.broken else DecodedImage(IMAGES[index].transpose(1, 2, 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_sample_of_the_epochs_order_takes_the_place_of_one_that_cannot_be_read(workers: int) -> None:
    order = np.concatenate([batch.indices for _, batch in iterate_batches(training(), 0, 6)]).tolist()
    broken = tuple(order[i] for i in (3, 4, 20))
    expected = order[:3] + [order[5]] * 2 + order[5:20] + [order[21]] + order[21:]
    found = [batch for _, batch in iterate_batches(training(Split(Damaged(broken), SPLIT.labels)), 0, 6, workers)]
    assert torch.cat([batch.indices for batch in found]).tolist() == expected
    assert torch.cat([batch.targets for batch in found]).tolist() == SPLIT.labels[expected].tolist()
    assert torch.equal(torch.cat([batch.images for batch in found]), torch.from_numpy(IMAGES[expected]))
    assert sorted({(u.index, u.file) for batch in found for u in batch.unreadable}) == sorted((i, f"{i}.jpg") for i in broken)


def test_when_nothing_can_be_read_it_ends_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^more than 50 of 50 images cannot be read, \d+.jpg first \(not a readable .*data check"):
        list(iterate_batches(training(Split(Damaged(tuple(range(50))), SPLIT.labels)), 0, 1))


def test_evaluation_marks_what_it_cannot_read_and_keeps_its_shape() -> None:
    source = EvalBatches(Split(Damaged((2, 49)), SPLIT.labels), GEOMETRY, 16)
    found = [batch for _, batch in iterate_batches(source, 0, 4)]
    assert {batch.images.shape for batch in found} == {(16, 1, 8, 8)}
    assert [u.index for batch in found for u in batch.unreadable] == [2, 49]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_ranks_share_every_batch_and_every_sample(ranks: int) -> None:
    parts = [TrainBatches(SPLIT, GEOMETRY, (), 8, 0, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step in (0, 7):
        whole = training()[step]
        assert isinstance(whole, Batch)
        assert torch.equal(torch.cat([part[step].indices for part in parts]), whole.indices)  # type: ignore[union-attr]
    fixed = [EvalBatches(SPLIT, GEOMETRY, 16, rank, ranks) for rank in range(ranks)]
    seen = [batch.indices for part in fixed for _, batch in iterate_batches(part, 0, part.steps)]
    assert sorted(torch.cat(seen).tolist()) == list(range(50))
