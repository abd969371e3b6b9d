"""A trained network that labels pixels, ready for images of any size."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convatlas import models
from convatlas.classifier import Classifier, load
from convatlas.classifier.from_module import ChannelValues, describe_module
from convatlas.data.images.decode import ImageLike, Pixels
from convatlas.data.images.inputs import ImageInput, iterate_images
from convatlas.data.images.prefetch import decode_ahead
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.errors import UsageError, UserError, printable
from convatlas.inference import Engine
from convatlas.inference import engine as build_engine
from convatlas.segmentation.predict import predict_mask

MAX_AHEAD = 4  # images that are decoded before they are predicted
MAX_ENGINES = 4  # that are kept: networks that take images whole have one for each size


class Segmented(NamedTuple):
    """The classes of an image's pixels, (height, width), and the image, (height, width, channels)."""

    mask: NDArray[np.uint8]
    pixels: Pixels


class _Image(NamedTuple):
    pixels: Pixels
    scaled: Tensor  # at the network's scale


class Segmenter:
    """Labels the pixels of images with the network of `weights`: a run's folder, a model.safetensors, or what
    `load` made of one.

    Raises UsageError for a network that classifies images.
    """

    def __init__(self, weights: Classifier | str | Path):
        self.classifier = weights if isinstance(weights, Classifier) else load(weights)
        self.metadata = self.classifier.metadata
        network = self.metadata.network
        if models.get_entry(network.name, network.edition).task != "segmentation":
            raise UsageError(
                f"{network.name} classifies images: use ca.load(...).predict, or weights of a network that "
                "labels pixels, such as unet"
            )
        self._engines: dict[tuple[str, tuple[int, ...]], Engine] = {}

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        classes: Sequence[str],
        preprocessing: Preprocessing | int | tuple[int, int],
        mean: ChannelValues | None = None,
        std: ChannelValues | None = None,
        normalizer: Normalizer | None = None,
        data: str | None = None,
    ) -> Self:
        """A segmenter of a copy of a network of `create_model` that was trained in a loop of the user's own.

        The arguments are those of `Classifier.from_module`. `preprocessing`: the size of the network's tiles,
        or another segmenter's `metadata.preprocessing`, which also says at which scale images are seen.

        Raises UsageError for a module that is no network of the atlas, or classifies images.
        """
        parts = describe_module(
            module, classes, preprocessing, mean, std, normalizer, data, task="segmentation"
        )
        return cls(Classifier(*parts))

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the segmenter for `load`; the arguments and errors are those of `Classifier.save`."""
        return self.classifier.save(path, overwrite)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their indices in masks."""
        return self.metadata.classes

    def predict(
        self, images: ImageInput | Iterable[ImageInput], engine: str = "auto"
    ) -> list[NDArray[np.uint8]]:
        """For each image, the classes of its pixels: (height, width), indices into `classes`.

        `images` and `engine` are those of `Classifier.predict`. Raises UserError for a file that is no image,
        UsageError for pixels of another type or shape.
        """
        masks = []
        for _, segmented in self.predict_iter(iterate_images(images), engine):
            if isinstance(segmented, UserError):
                raise segmented
            masks.append(segmented.mask)
        return masks

    def predict_iter(
        self,
        images: Iterable[ImageInput],
        engine: str = "auto",
        say: Callable[[str], None] = lambda line: None,
    ) -> Iterator[tuple[str, Segmented | UserError]]:
        """Yield (name, the image with its mask, or why it cannot be read) as they come; the next images are
        decoded meanwhile. `say` is called with a line that names the engine, and why it was chosen."""
        for name, image in decode_ahead(images, self._read, MAX_AHEAD):
            if isinstance(image, UserError):
                yield name, image
            else:
                yield name, Segmented(self._mask(image, engine, say), image.pixels)

    def _read(self, image: ImageLike) -> _Image:
        preprocessing = self.metadata.preprocessing
        size = image.height, image.width
        pixels = image.decode(preprocessing.channels, size, preprocessing.value_range)
        return _Image(pixels, preprocessing.read_scaled(image))

    def _mask(self, image: _Image, engine: str, say: Callable[[str], None]) -> NDArray[np.uint8]:
        preprocessing = self.metadata.preprocessing
        height, width = image.pixels.shape[:2]
        run = partial(self._run, name=engine, say=say)
        return predict_mask(run, image.scaled, preprocessing, (height, width))

    def _run(self, images: Tensor, name: str, say: Callable[[str], None]) -> Tensor:
        key = name, tuple(images.shape)
        if key not in self._engines:
            is_first = not self._engines
            if len(self._engines) == MAX_ENGINES:
                del self._engines[next(iter(self._engines))]
            self._engines[key] = build_engine(self.classifier.inference_module(), images, name)
            if is_first:
                say(f"engine {self._engines[key].name}: {self._engines[key].why}")
        with self.classifier.runtime.turn(say), torch.inference_mode():
            return self._engines[key](images)

    def __repr__(self) -> str:
        origin = self.metadata.provenance.get("data")
        trained = f", trained on {origin}" if origin else ""
        title = printable(self.metadata.network.title)
        return f"<Segmenter {title}: {len(self.classes)} classes{printable(trained)}>"
