"""Real images: where they are, how they are read, what is drawn at random, how they become batches."""

from pathlib import Path

from convatlas.data.dataset import Dataset as Dataset
from convatlas.data.dataset import Split as Split
from convatlas.errors import unknown


def open_dataset(name: str, size: tuple[int, int], channels: int | None = None) -> Dataset:
    """A data set by the name that users type: `fashion-mnist`, `mnist`, `cifar10`, `cifar100`, `digits` or `folder:PATH`.

    `size` is the (height, width) to which the images of a folder are brought, `channels` what they are converted to (None: 1 where all
    are grey, else 3); the published sets have their own.
    Raises UsageError for an unknown name, UserError for files that are missing or damaged.
    """
    from convatlas.data import folder
    from convatlas.data.published import PUBLISHED

    if name.startswith("folder:"):
        return folder.read(Path(name.removeprefix("folder:")).expanduser(), size, channels)
    if name not in PUBLISHED:
        raise unknown("data set", name, [*PUBLISHED, "folder:PATH"])
    return PUBLISHED[name]()
