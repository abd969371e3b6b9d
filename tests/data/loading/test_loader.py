"""Batches for training and evaluation: the same for any number of workers and ranks, even if a worker
dies."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from convatlas.data.dataset import ArrayImages, Split
from convatlas.data.images.decode import DecodedImage, EncodedImage
from convatlas.data.loading.batch import Batch
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.labeled_samples import LabeledSamples
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.augment import RandomCrop, RandomHorizontalFlip
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, size=(50, 1, 8, 8), dtype=np.uint8)
SPLIT = Split(ArrayImages(IMAGES), np.arange(50))
PREPROCESSING = fixed_size_preprocessing(1, (8, 8), (8, 8))


def train_batches(split: Split = SPLIT) -> TrainBatches:
    """Batches of 8 of 50 samples: 6 steps an epoch."""
    return TrainBatches(
        LabeledSamples(split, PREPROCESSING), (RandomCrop(2), RandomHorizontalFlip()), batch_size=8, seed=0
    )


def load(dataset: TrainBatches | EvalBatches, start: int, end: int, num_workers: int = 0) -> list[Batch]:
    return [batch for _, batch in iterate_batches(dataset, start, end, num_workers)]


@pytest.mark.parametrize(("num_workers", "start"), [(1, 0), (2, 5)])
def test_batches_are_bit_identical_for_any_workers_and_any_start(num_workers: int, start: int) -> None:
    expected = dict(iterate_batches(train_batches(), 0, 14))
    for step, batch in iterate_batches(train_batches(), start, 14, num_workers):
        assert torch.equal(batch.images, expected[step].images)
        assert torch.equal(batch.targets, expected[step].targets)


def test_an_epoch_has_each_sample_at_most_once_and_leaves_out_others_each_time() -> None:
    epochs = [
        torch.cat([batch.targets for batch in load(train_batches(), 6 * epoch, 6 * epoch + 6)]).tolist()
        for epoch in range(3)
    ]
    assert all(len(set(targets)) == 48 for targets in epochs)
    assert len({frozenset(targets) for targets in epochs}) == 3


def test_evaluation_takes_every_sample_once_in_batches_of_one_shape() -> None:
    batches = load(EvalBatches(SPLIT, PREPROCESSING, 16), 0, 4)
    assert {batch.images.shape for batch in batches} == {(16, 1, 8, 8)}
    assert torch.cat([batch.targets for batch in batches])[:50].tolist() == list(range(50))
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(50))


@dataclass(frozen=True)
class KillingImages:
    """Images whose reader is killed the first `deaths` times that it reads sample 20."""

    marks: Path  # a folder with a file for each death
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
    expected = load(train_batches(), 0, 12)
    batches = load(train_batches(Split(KillingImages(tmp_path, 2), SPLIT.labels)), 0, 12, num_workers=1)
    assert len(list(tmp_path.iterdir())) == 2
    images, expected_images = (torch.stack([batch.images for batch in b]) for b in (batches, expected))
    assert torch.equal(images, expected_images)


def test_workers_that_cannot_be_started_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start_workers = torch.utils.data.DataLoader.__iter__
    # as if a signal had ended the server that forks workers, twice
    errors = iter([EOFError("unexpected EOF"), ConnectionResetError(), None])

    def fail_twice(loader: torch.utils.data.DataLoader[object]) -> object:
        if error := next(errors):
            raise error
        return start_workers(loader)

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", fail_twice)
    steps = [step for step, _ in iterate_batches(train_batches(), 0, 4, num_workers=1)]
    assert steps == [0, 1, 2, 3]


def test_the_third_death_at_one_batch_ends_the_job(tmp_path: Path) -> None:
    batches = train_batches(Split(KillingImages(tmp_path, 99), SPLIT.labels))
    with pytest.raises(UserError, match="died at step"):
        load(batches, 0, 12, num_workers=1)


@dataclass(frozen=True)
class DamagedImages:
    """Images of which those at `unreadable` cannot be read."""

    unreadable: tuple[int, ...]

    def __len__(self) -> int:
        return 50

    def name(self, index: int) -> str:
        return f"{index}.jpg"

    def image(self, index: int) -> DecodedImage | EncodedImage:
        if index in self.unreadable:
            return EncodedImage(b"no image", self.name(index))
        return DecodedImage(IMAGES[index].transpose(1, 2, 0))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unreadable_sample_is_replaced_by_the_next_in_the_epochs_order(num_workers: int) -> None:
    order = torch.cat([batch.indices for batch in load(train_batches(), 0, 6)]).tolist()
    unreadable = tuple(order[i] for i in (3, 4, 20))
    expected = order[:3] + [order[5]] * 2 + order[5:20] + [order[21]] + order[21:]
    batches = load(train_batches(Split(DamagedImages(unreadable), SPLIT.labels)), 0, 6, num_workers)
    assert torch.cat([batch.indices for batch in batches]).tolist() == expected
    assert torch.cat([batch.targets for batch in batches]).tolist() == SPLIT.labels[expected].tolist()
    assert torch.equal(torch.cat([batch.images for batch in batches]), torch.from_numpy(IMAGES[expected]))
    samples = {(sample.index, sample.file) for batch in batches for sample in batch.unreadable}
    assert samples == {(index, f"{index}.jpg") for index in unreadable}


def test_a_split_without_a_readable_image_ends_in_one_sentence() -> None:
    split = Split(DamagedImages(tuple(range(50))), SPLIT.labels)
    message = r"^more than 50 of 50 images cannot be read, \d+.jpg first \(not a readable .*data check"
    with pytest.raises(UserError, match=message):
        load(train_batches(split), 0, 1)


def test_evaluation_lists_unreadable_samples_in_batches_of_one_shape() -> None:
    split = Split(DamagedImages((2, 49)), SPLIT.labels)
    batches = load(EvalBatches(split, PREPROCESSING, 16), 0, 4)
    assert {batch.images.shape for batch in batches} == {(16, 1, 8, 8)}
    assert [sample.index for batch in batches for sample in batch.unreadable] == [2, 49]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_every_training_batch_and_every_evaluated_sample(world_size: int) -> None:
    for step in (0, 7):
        (full_batch,) = load(train_batches(), step, step + 1)
        shares = []
        for rank in range(world_size):
            batches = TrainBatches(
                LabeledSamples(SPLIT, PREPROCESSING), (), 8, 0, rank=rank, world_size=world_size
            )
            shares += load(batches, step, step + 1)
        assert torch.equal(torch.cat([share.indices for share in shares]), full_batch.indices)
    evaluated = []
    for rank in range(world_size):
        eval_batches = EvalBatches(SPLIT, PREPROCESSING, 16, rank, world_size)
        evaluated += [batch.indices for batch in load(eval_batches, 0, eval_batches.steps)]
    assert sorted(torch.cat(evaluated).tolist()) == list(range(50))


@dataclass(frozen=True)
class WritesItsProcess(torch.utils.data.Dataset[Batch | UserError]):
    """Batches whose loading writes the number of the worker process to a file."""

    batches: EvalBatches
    file: Path

    def __getitem__(self, step: int) -> Batch | UserError:
        self.file.write_text(str(os.getpid()))
        return self.batches[step]


def load_for_ever(file: Path) -> None:
    split = Split(ArrayImages(np.zeros((4, 1, 8, 8), np.uint8)), np.zeros(4, np.int64))
    batches = EvalBatches(split, fixed_size_preprocessing(1, (8, 8), (8, 8)), 2)
    for _ in iterate_batches(WritesItsProcess(batches, file), 0, 1, num_workers=1):
        time.sleep(100)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_with_a_killed_process(method: str, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    program = (
        f"import multiprocessing; multiprocessing.set_start_method({method!r})\n"
        "import pathlib, sys, test_loader\n"
        "if __name__ == '__main__': test_loader.load_for_ever(pathlib.Path(sys.argv[1]))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(file)], env=os.environ | {"PYTHONPATH": path}
    )
    end = time.monotonic() + 60
    while not (file.exists() and file.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    worker = int(file.read_text())
    os.kill(worker, 0)
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()
