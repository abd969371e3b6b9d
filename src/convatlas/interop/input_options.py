"""How images are prepared for imported weights: what the user says, what comes with the weights, and what is
assumed in the place of both."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convatlas import models
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import MAX_SIDE, Preprocessing
from convatlas.errors import UsageError
from convatlas.interop.hub_config import WeightsConfig
from convatlas.interop.key_mapping import IMAGENET, KeyMapping
from convatlas.models import Network

MIN_STD = 1e-4  # below 1 / 255, which networks have that take pixels from 0 to 255


@dataclass(frozen=True)
class InputOptions:
    """What the user says: the side of the images in pixels; mean and standard deviation, for pixels from 0 to
    1, of each channel or one for all. None where nothing is said."""

    size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a value outside its range."""
        if self.size is not None and not 0 < self.size <= MAX_SIDE:
            raise UsageError(f"--size should be from 1 to {MAX_SIDE:,} pixels a side, not {self.size}")
        for name, values, low in (("mean", self.mean, 0.0), ("std", self.std, MIN_STD)):
            for value in values or ():
                if not low <= value <= 1:
                    in_bytes = ": divide by 255" if 1 < value <= 255 else ""
                    raise UsageError(
                        f"--{name} should be from {low:g} to 1, for pixels from 0 to 1, not "
                        f"{value:g}{in_bytes}"
                    )


def choose_preprocessing(
    network: Network, mapping: KeyMapping | None, options: InputOptions, config: WeightsConfig | None
) -> tuple[Preprocessing, list[str]]:
    """The geometry of the images, and what is assumed in it, in words.

    Raises UsageError for a size that the network does not take.
    """
    architecture = network.architecture
    assert architecture is not None
    assumed = []
    usual = mapping.input_size if mapping else models.get_entry(architecture.name).input[1]
    resize: int | None = None
    if options.size is not None:
        height, width = options.size, options.size
    elif network.fixed_size is not None:
        height, width = network.fixed_size
    elif config is not None and config.input_size is not None:
        height = width = config.input_size
        resize = config.resize_size
    else:
        height = width = usual
        assumed.append(f"size {usual}")
    network.check_images(torch.empty(1, network.in_chans, height, width, device="meta"))
    if resize is None or resize < height:
        # as much larger than the crop as for the library's usual weights
        usual_resize = mapping.resize_size if mapping else usual * 8 // 7
        resize = round(height * usual_resize / usual)
    resize_size = (resize, round(resize * width / height))
    return Preprocessing(
        channels=network.in_chans,
        resize_size=resize_size,
        input_size=(height, width),
        mode="none" if resize_size == (height, width) else "crop",
    ), assumed


def choose_normalizer(
    num_channels: int, mapping: KeyMapping | None, options: InputOptions, config: WeightsConfig | None
) -> tuple[Normalizer, list[str]]:
    """The normalisation of the pixels, and what is assumed in it, in words.

    Raises UsageError for a number of values that is not the number of channels.
    """
    assumed = []
    statistics = []
    usual = mapping.mean_std if mapping else IMAGENET
    for position, name in enumerate(("mean", "std")):
        said: Sequence[float] | None = getattr(options, name)
        chosen = said if said is not None else getattr(config, name, None)
        if chosen is None:
            values = usual[position]
            grey = " averaged" if num_channels != len(values) and len(set(values)) > 1 else ""
            listed = ", ".join(f"{value:g}" for value in values)
            assumed.append(f"{name} {listed}{grey}")
            statistics.append(_average_over_channels(values, num_channels))
            continue
        values = tuple(chosen)
        if len(values) not in (1, num_channels):
            place = f"--{name}" if said is not None else f"{config.source} for {name}" if config else name
            raise UsageError(
                f"{place} has {len(values)} values, but the weights are for images of {num_channels} "
                f"channel{'s' * (num_channels != 1)}: give one for each, or one for all"
            )
        statistics.append(_average_over_channels(values, num_channels))
    return Normalizer(*statistics), assumed


def _average_over_channels(values: Sequence[float], num_channels: int) -> Tensor:
    """The values as (channels, 1, 1); if the number of channels differs, the mean of the values for each."""
    if num_channels != len(values):
        values = (sum(values) / len(values),) * num_channels
    return torch.tensor(tuple(values))[:, None, None]
