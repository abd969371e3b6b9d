"""The images that an evaluation takes: which split, and without those that a network was trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convatlas.classifier import Classifier
from convatlas.data import Dataset, Split, open_evaluation_dataset
from convatlas.data.sources.source import ALL
from convatlas.errors import UsageError, UserError, printable, unknown_name
from convatlas.evaluation.image_list import read_image_list
from convatlas.evaluation.metrics import Labels

MAX_NAMED = 3  # images or classes in a note
TRAIN = "train"


class EvalData(NamedTuple):
    """The samples of `split` at `indices` (None: all of them).

    trained_on: the samples of the split whose content a network was trained on, by their indices in it; they
        are left out where `indices` lacks them. notes: decisions, for the user.
    """

    dataset: Dataset
    split: str
    indices: Labels | None
    trained_on: Labels
    notes: tuple[str, ...]

    def trained_on_document(self) -> dict[str, Any]:
        """How many images of the split were trained on, whether they are left out, and then their names."""
        left_out = self.indices is not None and not np.isin(self.trained_on, self.indices).any()
        images = self.dataset.splits[self.split].images
        names = [images.name(int(index)) for index in self.trained_on] if left_out else []
        return {"n": len(self.trained_on), "left_out": left_out and bool(names), "files": names}


def select_eval_data(
    classifiers: Sequence[Classifier], data: str | None, split: str | None, subset: Path | None
) -> EvalData:
    """The images that the classifiers are evaluated on.

    data: None is the data that all of them were trained on.
    split: None is the test split; in a set without splits it is every image, unless it is that of the
        training, whose held-out test images are taken.
    subset: a file with the names of some of the images.

    Images with the content of a training image are left out. They are counted where the split `train` is
    named, and in a split of exactly the data of the training, as that training counted them.

    Raises UsageError for a split or an image that does not exist; UserError where no image is left.
    """
    training_names = {classifier.metadata.provenance.get("data") for classifier in classifiers}
    name = data or _training_data(classifiers)
    as_trained = name in training_names
    dataset = open_evaluation_dataset(name, as_trained)
    split, notes = _choose_split(dataset, split)
    samples = dataset.splits[split]
    if not len(samples):
        raise UserError(f"{printable(name)}, {split} holds no images: name another with --split")
    indices = None
    if subset is not None:
        indices = read_image_list(subset, samples, f"{dataset.name}, {split}")
    trained_on = _trained_on(classifiers, samples)
    if indices is not None:
        trained_on = np.intersect1d(trained_on, indices)
    if len(trained_on) and split != TRAIN:
        hashes = {classifier.metadata.provenance.get("data_sha256") for classifier in classifiers}
        if hashes == {dataset.sha256} and split != ALL:
            notes.append(_describe(samples, trained_on) + " and are counted, as in that training")
        else:
            indices = np.setdiff1d(np.arange(len(samples)) if indices is None else indices, trained_on)
            notes.append(_describe(samples, trained_on) + " and are left out")
            if not len(indices):
                raise UserError(
                    f"all images of {printable(name)}, {split}, were trained on: give others, or evaluate "
                    f"training images with --split {TRAIN}"
                )
    notes += _describe_missing_classes(dataset, split, indices)
    if not as_trained:  # else the training has shown them
        passed_over = [f"passed over: {dataset.passed_over}"] if dataset.passed_over else []
        notes = [*dataset.notes, *dataset.warnings, *passed_over, *notes]
    return EvalData(dataset, split, indices, trained_on, tuple(notes))


def _training_data(classifiers: Sequence[Classifier]) -> str:
    """The data set that all classifiers were trained on."""
    names = {classifier.training_data for classifier in classifiers}
    if len(names) > 1:
        first, second, *_ = map(printable, sorted(names))
        raise UsageError(f"these were trained on different data, {first} and {second}: say which with --data")
    return names.pop()


def _choose_split(dataset: Dataset, split: str | None) -> tuple[str, list[str]]:
    """The split, by default `test`, and notes."""
    name = printable(dataset.name)
    published = [name for name in dataset.splits if name != ALL]
    if split is None and not published:
        return ALL, [f"{name} has no splits: all of its {len(dataset.splits[ALL]):,} images are taken"]
    if (split or "test") in dataset.splits:
        return split or "test", []
    if not published:
        raise UsageError(
            f"{name} has no splits: leave out --split {printable(split)}, and every image is taken"
        )
    if split is None:
        names = ", ".join(map(printable, published))
        raise UsageError(
            f"{name} has {names} but no test images: choose with --split; --split {ALL} takes every image"
        )
    raise unknown_name("split", split, dataset.splits)


def _trained_on(classifiers: Sequence[Classifier], samples: Split) -> Labels:
    """The indices of the samples that one of the classifiers was trained on."""
    trained_on: set[bytes] = set()
    for classifier in classifiers:
        trained_on |= classifier.trained_on() or set()
    # NumPy's bytes have lost their last zeros
    hashes = (digest.rstrip(b"\0") for digest in samples.content_hashes)
    return np.array([index for index, digest in enumerate(hashes) if digest in trained_on], np.int64)


def _describe(samples: Split, trained_on: Labels) -> str:
    names = ", ".join(samples.images.name(int(index)) for index in trained_on[:MAX_NAMED])
    more = f" and {len(trained_on) - MAX_NAMED:,} more" if len(trained_on) > MAX_NAMED else ""
    return f"{len(trained_on):,} of the {len(samples):,} images were trained on ({names}{more})"


def _describe_missing_classes(dataset: Dataset, split: str, indices: Labels | None) -> list[str]:
    samples = dataset.splits[split]
    counts = (samples if indices is None else samples.subset(indices)).class_sizes(len(dataset.classes))
    missing = [name for name, count in zip(dataset.classes, counts, strict=True) if not count]
    if not missing:
        return []
    names = ", ".join(missing[:MAX_NAMED]) + (" and others" if len(missing) > MAX_NAMED else "")
    return [f"{split} has no images of {len(missing):,} of the {len(dataset.classes):,} classes: {names}"]
