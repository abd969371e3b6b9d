import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from convatlas.data.augment import Flip, PadCrop
from convatlas.data.dataset import Split
from convatlas.data.loader import Fixed, Training, batches
from convatlas.data.preprocessing import fit
from convatlas.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, size=(50, 1, 8, 8), dtype=np.uint8)
SPLIT = Split(IMAGES, np.arange(50))
GEOMETRY = fit(1, (8, 8), (8, 8))


def training(split: Split = SPLIT, seed: int = 0) -> Training:
    return Training(split, GEOMETRY, (PadCrop(2), Flip()), batch=8, seed=seed)


@pytest.mark.parametrize(("workers", "start"), [(1, 0), (2, 5)])
def test_batches_are_bit_identical_whatever_the_workers_and_wherever_one_starts(workers: int, start: int) -> None:
    alone = dict(batches(training(), 0, 14))
    for step, batch in batches(training(), start, 14, workers):
        assert torch.equal(batch.images, alone[step].images)
        assert torch.equal(batch.targets, alone[step].targets)


def test_an_epoch_holds_each_sample_at_most_once_and_leaves_others_out_each_time() -> None:
    epochs = [torch.cat([training()[step].targets for step in range(6 * e, 6 * e + 6)]).tolist() for e in range(3)]  # type: ignore[union-attr]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert len({frozenset(epoch) for epoch in epochs}) == 3


def test_evaluation_sees_every_sample_once_in_order_in_batches_of_one_shape() -> None:
    found = [batch for _, batch in batches(Fixed(SPLIT, GEOMETRY, 16), 0, 4)]
    assert {batch.images.shape for batch in found} == {(16, 1, 8, 8)}
    assert torch.cat([batch.targets for batch in found])[:50].tolist() == list(range(50))


@dataclass(frozen=True)
class Killing:
    """Images whose reader dies, the first times it meets sample 20."""

    marks: Path
    deaths: int

    def __len__(self) -> int:
        return 50

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        if 20 in indices and len(list(self.marks.iterdir())) < self.deaths:
            (self.marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return IMAGES[indices]


def test_a_worker_that_dies_is_replaced_and_its_batch_is_the_same(tmp_path: Path) -> None:
    alone = [batch.images for _, batch in batches(training(), 0, 12)]
    found = [batch.images for _, batch in batches(training(Split(Killing(tmp_path, 2), SPLIT.labels)), 0, 12, workers=1)]
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.equal(torch.stack(found), torch.stack(alone))


def test_workers_that_cannot_be_started_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = torch.utils.data.DataLoader.__iter__, iter([EOFError("unexpected EOF"), ConnectionResetError(), None])

    def at_the_third_time(loader: torch.utils.data.DataLoader[object]) -> object:  # a signal has ended the server that forks them
        if error := next(refused):
            raise error
        return start(loader)

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", at_the_third_time)
    assert [step for step, _ in batches(training(), 0, 4, workers=1)] == [0, 1, 2, 3]


def test_the_third_death_on_the_same_batch_ends_the_job(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="died at step"):
        list(batches(training(Split(Killing(tmp_path, 99), SPLIT.labels)), 0, 12, workers=1))


class Broken:
    def __len__(self) -> int:
        return 50

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        raise UserError("photo.jpg: not a readable image")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_one_sentence_from_a_worker_too(workers: int) -> None:
    with pytest.raises(UserError, match=r"^photo.jpg: not a readable image$"):
        list(batches(training(Split(Broken(), SPLIT.labels)), 0, 2, workers))
