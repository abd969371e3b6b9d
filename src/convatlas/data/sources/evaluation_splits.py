"""A data set as an evaluation takes it.

What a training requires, such as images of every class in every split, does not apply. Besides the splits
that the source publishes there is the split `all`, with every image.
"""

from dataclasses import replace

import numpy as np

from convatlas.data.dataset import Dataset, Split
from convatlas.data.sources.source import RawDataset, hash_splits, prepare, usable_samples
from convatlas.errors import UserError

ALL = "all"


def prepare_for_evaluation(source: RawDataset, as_trained: bool = False) -> Dataset:
    """The published splits, and `all`.

    as_trained: also the splits that a training holds out of this source. Where no training can use it any
        more
        (its training images are gone), the published splits alone.

    Raises UserError for a source without a readable image.
    """
    quarantined, usable = usable_samples(source)
    everything = np.flatnonzero(usable)
    if not len(everything):
        raise UserError(f"{source.name} holds no images: expected at least one to evaluate")
    hashes = [bytes(content_hash) for content_hash in source.content_hashes]
    every_sample = Split(source.images, source.labels, hashes)
    if as_trained:
        try:
            trained = prepare(source, quarantined)
        except UserError:
            pass
        else:
            return replace(trained, splits=trained.splits | {ALL: every_sample.subset(everything)})
    splits = {name: indices[usable[indices]] for name, indices in source.splits.items()} | {ALL: everything}
    return Dataset(
        source.name,
        source.classes,
        source.channels,
        source.size,
        {name: every_sample.subset(indices) for name, indices in splits.items()},
        hash_splits(source, splits, hashes),
        hflip_safe=source.hflip_safe,
        notes=source.notes,
        quarantined=tuple(quarantined),
        root=source.root,
    )
