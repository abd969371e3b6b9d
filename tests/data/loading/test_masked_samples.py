"""Batches of images with masks: the same for any worker, start and rank; nothing is silently wrong."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convatlas.data import open_dataset
from convatlas.data.dataset import Split
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.loading.masked_eval_batches import MaskedEvalBatches
from convatlas.data.loading.masked_samples import MaskedSamples
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.elastic import ElasticTransform
from convatlas.data.transforms.preprocessing import tile_preprocessing
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.errors import UserError
from convatlas.segmentation.task import class_target, weighted_target

TILE = RandomTile(scale=0.5, hflip=True, elastic=ElasticTransform(std=2.0))
PREPROCESSING = tile_preprocessing(3, (24, 28), margin=2, stride=1, scale=0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 images whose classes can be read off their colours: class n has the level 100 n."""
    generator = np.random.default_rng(0)
    for number in range(12):
        split = ("train", "train", "val", "test")[number % 4]
        size = generator.integers(30, 50, 2)
        classes = np.kron(generator.integers(0, 3, (5, 5)), np.ones((10, 10), int))[: size[0], : size[1]]
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
        pixels = np.repeat((100 * classes).astype(np.uint8)[:, :, None], 3, axis=2)
        Image.fromarray(pixels).save(tmp_path / split / "images" / f"{number:02d}.png")
        Image.fromarray(classes.astype(np.uint8)).save(tmp_path / split / "masks" / f"{number:02d}.png")
    return tmp_path


def samples(folder: Path, tile: RandomTile = TILE) -> MaskedSamples:
    split = open_dataset(f"folder:{folder}").splits["train"]
    return MaskedSamples(split, PREPROCESSING, tile, class_target)


def batches(folder: Path, rank: int = 0, world_size: int = 1) -> TrainBatches:
    return TrainBatches(samples(folder), (), batch_size=4, seed=1, rank=rank, world_size=world_size)


def test_targets_are_the_classes_that_the_tiles_show(folder: Path) -> None:
    training = TrainBatches(samples(folder, RandomTile(hflip=True)), (), batch_size=4, seed=1)
    for step in range(6):
        batch = training[step]
        assert not isinstance(batch, UserError)
        assert (batch.images.shape, batch.targets.shape) == ((4, 3, 24, 28), (4, 20, 24))
        shown = (batch.images[:, 0, 2:-2, 2:-2].float() / 100).round()
        counted = batch.targets != 255
        agree = (shown == batch.targets)[counted].float().mean()
        assert agree > 0.9  # at half the size, the pixels between two classes have both


def test_workers_and_starts_change_no_bit(folder: Path) -> None:
    expected = dict(iterate_batches(batches(folder), 0, 6))
    for start, workers in ((0, 2), (3, 1)):
        for step, batch in iterate_batches(batches(folder), start, 6, workers):
            assert torch.equal(batch.images, expected[step].images)
            assert torch.equal(batch.targets, expected[step].targets)


def test_ranks_share_the_batches(folder: Path) -> None:
    whole = batches(folder)[2]
    shares = [batches(folder, rank, 2)[2] for rank in (0, 1)]
    assert not isinstance(whole, UserError)
    for field in ("images", "targets", "indices"):
        parts = [getattr(share, field) for share in shares]
        assert torch.equal(torch.cat(parts), getattr(whole, field))


def test_a_mask_that_became_unreadable_is_replaced_and_listed(folder: Path) -> None:
    training = batches(folder)
    file = folder / "train" / "masks" / "00.png"
    file.write_bytes(file.read_bytes()[:40])
    listed = set()
    for step in range(2):
        batch = training[step]
        assert not isinstance(batch, UserError)
        listed |= {Path(sample.file).name for sample in batch.unreadable}
        assert 0 not in batch.indices
    assert listed == {"00.png"}


def test_weighted_targets_have_the_classes_and_the_weights(folder: Path) -> None:
    make_target = partial(weighted_target, class_weights=np.array([1.0, 2.0, 3.0]), w0=10.0, sigma=2.0)
    split = open_dataset(f"folder:{folder}").splits["train"]
    plain = samples(folder).load_plain(np.arange(3)).targets
    weighted = MaskedSamples(split, PREPROCESSING, TILE, make_target).load_plain(np.arange(3)).targets
    assert weighted.shape == (3, 2, 20, 24)
    assert torch.equal(weighted[:, 0].byte(), plain)
    weights = weighted[:, 1]
    assert (weights[plain == 255] == 0).all()
    assert (weights[plain == 2] == 3).all()
    assert weights[plain == 0].min() >= 1


def test_evaluation_takes_whole_images_with_masks_of_their_own_size(folder: Path) -> None:
    split = open_dataset(f"folder:{folder}").splits["train"]
    for rank in (0, 1):
        source = MaskedEvalBatches(split, PREPROCESSING, rank, 2)
        for step in range(source.steps):
            batch = source[step]
            assert not isinstance(batch, UserError)
            index = rank + 2 * step
            assert batch.indices.tolist() == [index]
            image = split.images.image(index)
            assert batch.targets.shape == (1, image.height, image.width)
            scaled = round(image.height / 2), round(image.width / 2)
            assert batch.images.shape == (1, 3, *scaled)


def test_an_unreadable_image_of_an_evaluation_is_listed(folder: Path) -> None:
    split = open_dataset(f"folder:{folder}").splits["train"]
    Path(split.images.name(1)).write_bytes(b"no image")
    batch = MaskedEvalBatches(Split(split.images, split.labels, masks=split.masks), PREPROCESSING)[1]
    assert not isinstance(batch, UserError)
    assert [sample.index for sample in batch.unreadable] == [1]
