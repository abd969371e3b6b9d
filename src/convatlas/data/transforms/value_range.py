"""The scale of pixels of more than 8 bits: one for a data set, measured over its training split."""

import numpy as np

from convatlas.data.dataset import ArrayImages, Dataset, ImageSource
from convatlas.data.images.decode import EncodedImage
from convatlas.data.images.deep_pixels import ValueRange, usual_range
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.transforms import counter_rng
from convatlas.errors import UserError, printable

MAX_SAMPLES = 2_000  # images of a larger split that are measured


def dataset_value_range(dataset: Dataset) -> ValueRange | None:
    """The values that become 0 and 255 in this data set; None if its pixels have 8 bits.

    Raises UserError for a data set that no scale fits.
    """
    return dataset.value_range or measure_value_range(dataset.splits["train"].images)


def measure_value_range(images: ImageSource) -> ValueRange | None:
    """Measure up to MAX_SAMPLES images: the usual range that holds their values, or None if all have 8 bits.

    Raises UserError if some are of integers and others of floating point numbers.
    """
    if isinstance(images, ArrayImages):
        return None
    ranges: dict[bool, list[tuple[float, float]]] = {}  # by whether the values are floating point numbers
    names: dict[bool, str] = {}
    for index in np.sort(counter_rng.permutation(0, 0, len(images))[:MAX_SAMPLES]).tolist():
        try:
            image = images.image(index)
            if not isinstance(image, EncodedImage) or not image.is_deep:
                continue
            values = image.deep_values()
        except UnreadableImage:
            continue
        is_float = values.dtype.kind == "f"
        ranges.setdefault(is_float, []).append((float(values.min()), float(values.max())))
        names.setdefault(is_float, images.name(index))
    if len(ranges) > 1:
        raise UserError(
            f"{printable(names[True])} has floating point numbers as pixels and {printable(names[False])} "
            "integers, which no single scale fits: convert the images to one of the two"
        )
    for is_float, measured in ranges.items():
        return usual_range(min(low for low, _ in measured), max(high for _, high in measured), is_float)
    return None


def describe_value_range(value_range: ValueRange) -> str:
    """The scale as a note for the user."""
    low, high = value_range
    return f"pixels of more than 8 bits: {low:g} to {high:g} become 0 to 255, in every image alike"
