"""A split as a classifier has it: its classes by name, its images as it wants them."""

from typing import Any

from convatlas.errors import UsageError, unknown


def labelled(classifier: Any, data: str | None, split: str) -> Any:
    """The split of `data` (default: what it was trained on) with the classifier's numbers for its classes. Raises UsageError."""
    import numpy as np

    from convatlas.data import open_dataset

    name = data or classifier.card.provenance.get("data")
    if not name:
        raise UsageError("this classifier does not say what it was trained on: name images of its kind with --data")
    dataset = open_dataset(str(name))
    if split not in dataset.splits:
        raise unknown("split", split, dataset.splits)
    lacking = [one for one in dataset.classes if one not in classifier.card.classes]
    if lacking:
        raise UsageError(f"{dataset.name} has {len(lacking)} classes that the classifier lacks, {lacking[0]!r} first: name other --data")
    wanted = classifier.card.preprocessing
    if dataset.channels != wanted.channels or dataset.size not in (None, wanted.source):
        raise UsageError(f"{dataset.name} has images unlike those that the classifier was made for: name other --data")
    places = np.array([classifier.card.classes.index(one) for one in dataset.classes])
    chosen = dataset.splits[split]
    return type(chosen)(chosen.images, places[chosen.labels], chosen.keys)
