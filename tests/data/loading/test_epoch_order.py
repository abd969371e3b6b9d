"""The order of an epoch: a function of (seed, epoch) alone. Balanced: all classes equally often."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from convatlas.data.dataset import ArrayImages, Split
from convatlas.data.loading.epoch_order import EpochOrder
from convatlas.data.loading.labeled_samples import LabeledSamples
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.augment import RandomCrop
from convatlas.data.transforms.counter_rng import permutation
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing

UNEVEN = np.repeat([0, 1, 2], [300, 20, 10])
LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


def test_uniform_sampling_is_a_permutation_of_seed_and_epoch() -> None:
    order = EpochOrder(3, UNEVEN)
    assert (order(2) == permutation(3, 2, len(UNEVEN))).all()
    assert sorted(order(5)) == list(range(len(UNEVEN)))


@given(LABELS, st.integers(0, 3), st.integers(0, 3))
def test_balanced_sampling_takes_every_class_equally_often_and_its_samples_too(
    labels: np.ndarray, seed: int, epoch: int
) -> None:
    order = EpochOrder(seed, labels, "balanced")(epoch)
    assert len(order) == len(labels)
    _, draws = np.unique(labels[order], return_counts=True)
    assert draws.max() - draws.min() <= 1
    for label in np.unique(labels):
        repeats = np.bincount(order[labels[order] == label], minlength=len(labels))[labels == label]
        assert repeats.max() - repeats.min() <= 1


def test_300_20_10_images_are_drawn_110_times_each_and_all_of_them_in_a_few_epochs() -> None:
    order = EpochOrder(0, UNEVEN, "balanced")
    assert np.bincount(UNEVEN[order(0)]).tolist() == [110, 110, 110]
    assert len(np.unique(np.concatenate([order(epoch) for epoch in range(20)]))) > 325


def test_balanced_batches_do_not_depend_on_what_was_loaded_before_or_on_the_rank() -> None:
    rng = np.random.default_rng(0)
    split = Split(ArrayImages(rng.integers(0, 256, (330, 1, 8, 8), dtype=np.uint8)), UNEVEN)
    preprocessing = fixed_size_preprocessing(1, (8, 8), (8, 8))

    def batches(rank: int = 0, world_size: int = 1) -> TrainBatches:
        return TrainBatches(
            LabeledSamples(split, preprocessing),
            (RandomCrop(2),),
            32,
            7,
            rank,
            world_size,
            sampling="balanced",
        )

    earlier = batches()
    for step in (0, 3, 25):
        whole, fresh = earlier[step], batches()[step]
        shares = [batches(rank, 2)[step] for rank in (0, 1)]
        assert not isinstance(whole, Exception)
        assert not isinstance(fresh, Exception)
        assert (whole.indices == fresh.indices).all()
        of_ranks = [share.indices for share in shares if not isinstance(share, Exception)]
        assert torch.cat(of_ranks).tolist() == whole.indices.tolist()
        augmented = [b.augmented(whole.images, whole.indices, step) for b in (earlier, batches(1, 2))]
        assert (augmented[0] == augmented[1]).all()


def test_a_sample_that_is_drawn_again_in_an_epoch_is_cropped_anew() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 8, 8), dtype=np.uint8)
    split = Split(ArrayImages(images), np.array([0] * 7 + [1]))
    preprocessing = fixed_size_preprocessing(1, (8, 8), (8, 8))
    batches = TrainBatches(LabeledSamples(split, preprocessing), (RandomCrop(4),), 2, 0, sampling="balanced")
    views = []
    for step in range(4):  # an epoch: sample 7 is drawn four times
        batch = batches[step]
        assert not isinstance(batch, Exception)
        augmented = batches.augmented(batch.images, batch.indices, step)
        views += [view.numpy().tobytes() for view in augmented[batch.indices == 7]]
    assert len(set(views)) >= 3
