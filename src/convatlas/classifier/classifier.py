"""A trained network with all that it takes to classify images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.classifier.from_module import ChannelValues, describe_module
from convatlas.classifier.model_file import (
    ClassifierMetadata,
    named_tensors,
    save_model_file,
    write_model_file,
)
from convatlas.classifier.training_images import read_training_images
from convatlas.data import Dataset
from convatlas.data.images.inputs import ImageInput, image_name, iterate_images, read_image
from convatlas.data.images.prefetch import decode_ahead
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import Preprocessing, fixed_size_preprocessing
from convatlas.errors import UsageError, UserError, printable
from convatlas.inference import Engine
from convatlas.inference import engine as build_engine
from convatlas.runtime.device import Precision, best_precision, select_device
from convatlas.runtime.runtime import Runtime
from convatlas.storage.checked_safetensors import hash_tensors
from convatlas.storage.records import record_sha256

BATCH_SIZE = 32  # images that go through the network at once

Classes = list[tuple[str, float]]  # names and probabilities, the likeliest first


class Classifier:
    """A trained network, its classes and its preprocessing.

    It runs on `runtime`, by default the machine's best device. `training_images` is the file that lists its
    training images (training_images.py).
    """

    def __init__(
        self,
        metadata: ClassifierMetadata,
        model: nn.Module,
        normalizer: Normalizer,
        runtime: Runtime | None = None,
        training_images: Path | None = None,
    ):
        self.metadata = metadata
        self._training_images = training_images
        self.engines: dict[str, Engine] = {}  # built, by the name that was requested
        if runtime is None:
            device = select_device()
            runtime = Runtime(device, choose_precision(metadata, device))
        self.runtime = runtime
        self.model = runtime.to_device(model.eval())
        self.normalizer = normalizer.to(runtime.device)

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
        """A classifier of a copy of a network of `create_model` that was trained in a loop of the user's own.

        Its last layer may have been replaced by one for other classes; wrappers (DistributedDataParallel,
        torch.compile, AveragedModel) are taken off. `classes`: the names, in the order of the logits.
        `preprocessing`: the size of the network's images, to which the shorter side is resized and the centre
        cropped, or another classifier's `metadata.preprocessing`. `mean` and `std` are those of pixels from 0
        to 1, a number or one for each channel; or give `normalizer`, another classifier's. `data`: the name
        of the data that it was trained on, for `evaluate`.

        Raises UsageError for a module that is no network of the atlas, naming the first part that differs.
        """
        return cls(*describe_module(module, classes, preprocessing, mean, std, normalizer, data))

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the classifier for `load`: a file that ends in .safetensors, or `model.safetensors` in a
        folder. Returns the file.

        Raises UsageError for one that exists, unless it is to be overwritten; UserError where it cannot be
        written.
        """
        return save_model_file(
            path, overwrite, lambda file: write_model_file(file, self.metadata, self.model, self.normalizer)
        )

    def __repr__(self) -> str:
        metadata = self.metadata
        classes = [printable(name) for name in metadata.classes[:3]]
        classes += ["..."] * (len(metadata.classes) > 3)
        facts = [
            f"{len(metadata.classes)} classes ({', '.join(classes)})",
            "input " + "x".join(map(str, metadata.preprocessing.shape)),
        ]
        origin = [f"trained on {metadata.provenance['data']}"] if "data" in metadata.provenance else []
        origin += (
            [f"test top-1 {metadata.metrics['test_top1']:.2f} %"] if "test_top1" in metadata.metrics else []
        )
        title = printable(metadata.network.title)
        return f"<Classifier {title}: {', '.join([*facts, *map(printable, origin)])}>"

    @property
    def training_data(self) -> str:
        """The name of the data that it was trained on. Raises UsageError where its file does not say."""
        name = self.metadata.provenance.get("data")
        if not name:
            raise UsageError("this classifier does not say what it was trained on: name the data with --data")
        return str(name)

    def trained_on(self) -> set[bytes] | None:
        """The content hashes of its training images; None where no file beside it lists them.

        Raises UserError for a damaged file.
        """
        run = self.metadata.provenance.get("run")
        if self._training_images is None or not run:
            return None
        return read_training_images(self._training_images, str(run))

    @property
    def weights_sha256(self) -> str:
        """A hash of the architecture, the preprocessing and all tensors: equal if the logits must be."""
        description = [self.metadata.network, self.metadata.preprocessing]
        return record_sha256([description, hash_tensors(named_tensors(self.model, self.normalizer))])

    def preprocessing_for(self, dataset: Dataset) -> Preprocessing:
        """The preprocessing of a data set's images.

        Raises UsageError for images whose channels cannot become the network's, and for a store whose pixels
        were packed by another scale.
        """
        preprocessing = self.metadata.preprocessing
        if dataset.value_range not in (None, preprocessing.value_range):
            scale = preprocessing.value_range or "images of 8 bits"
            raise UsageError(
                f"{dataset.name} was packed with {dataset.value_range} as black and white, and the "
                f"classifier was trained with {scale}: evaluate it on the image files"
            )
        if dataset.size is None:
            return preprocessing
        channels = preprocessing.channels
        if dataset.channels != channels and {dataset.channels, channels} != {1, 3}:
            raise UsageError(
                f"{dataset.name} has {dataset.channels} channels, the classifier takes {channels}"
            )
        if dataset.size == preprocessing.resize_size:
            return preprocessing
        return fixed_size_preprocessing(
            channels, dataset.size, preprocessing.input_size, preprocessing.value_range
        )

    def inference_module(self) -> nn.Sequential:
        """The normalizer and the network as one module: uint8 images (n, channels, *size) -> logits.

        For engines.
        """
        return nn.Sequential(self.normalizer, self.model)

    def logits(self, images: Tensor) -> Tensor:
        """uint8 images (n, channels, *size) -> logits (n, classes), float32."""
        with self.runtime.turn(), torch.inference_mode(), self.runtime.autocast():
            logits: Tensor = self.model(self.normalizer(images))
        return logits.float()

    def predict(
        self, images: ImageInput | Iterable[ImageInput], top: int = 5, engine: str = "auto"
    ) -> list[Classes]:
        """For each image, its `top` likeliest classes with their probabilities.

        `images`: one or several of these: a path, the bytes of an image file, a PIL image, or an array or
        tensor of RGB or grey pixels, uint8, (height, width, channels) or (height, width). One image gives a
        list with one element.

        Raises UserError for a file that is no image, UsageError for pixels of another type or shape.
        """
        network = self.metadata.network
        if models.get_entry(network.name, network.edition).task == "segmentation":
            raise UsageError(
                f"{network.name} labels pixels: ca.Segmenter(classifier).predict(images) gives the masks"
            )
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise UsageError(f"top should be a whole number of classes, 1 or more, not {top!r}")
        predictions = []
        for _, classes in self.predict_iter(iterate_images(images), top, engine):
            if isinstance(classes, UserError):
                raise classes
            predictions.append(classes)
        return predictions

    def features(
        self,
        images: Tensor | ImageInput | Iterable[ImageInput],
        paths: Sequence[str] = (models.PENULTIMATE,),
        batch: int = 32,
    ) -> dict[str, Tensor]:
        """The outputs of the network's modules at `paths` for every image, float32 on the CPU.

        `images` are those of `predict`, or preprocessed ones in a tensor, uint8 (n, channels, *size).
        "penultimate" is the vector that the last layer classifies. Raises UsageError for a path that does not
        exist, naming the nearest, and UserError for a file that is no image.
        """
        assert isinstance(self.model, models.Network)
        if not (isinstance(images, Tensor) and images.dim() == 4):
            transform = self.metadata.preprocessing.transform
            images = torch.stack(
                [
                    transform(read_image(image, image_name(image, index)))
                    for index, image in enumerate(iterate_images(images))
                ]
            )
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.metadata.preprocessing.shape:
            shape = ", ".join(map(str, self.metadata.preprocessing.shape))
            raise UsageError(
                f"preprocessed images should be uint8 of shape (n, {shape}), not {images.dtype} of shape "
                f"{tuple(images.shape)}: give the images themselves, in a list"
            )
        outputs: dict[str, list[Tensor]] = {path: [] for path in paths}
        with torch.inference_mode(), self.runtime.autocast():
            for start in range(0, len(images), batch):
                normalized = self.normalizer(images[start : start + batch].to(self.runtime.device))
                for path, output in models.features(self.model, normalized, paths).items():
                    outputs[path].append(output.float().cpu())
        return {path: torch.cat(tensors) for path, tensors in outputs.items()}

    def predict_iter(
        self,
        images: Iterable[ImageInput],
        top: int = 5,
        engine: str = "auto",
        batch: int = BATCH_SIZE,
        say: Callable[[str], None] = lambda line: None,
    ) -> Iterator[tuple[str, Classes | UserError]]:
        """Yield (name, its classes, or why it cannot be read) as they come; the next images are decoded
        meanwhile. The name is the path, or for an image without one `image 3`, from 0 on.

        `say` is called with a line that names the engine, and why it was chosen.
        """
        decoded: list[tuple[str, Tensor | UserError]] = []
        for file, image in decode_ahead(images, self.metadata.preprocessing.transform, 2 * batch):
            decoded.append((file, image))
            if len(decoded) == batch:
                yield from self._classify(decoded, top, engine, say)
                decoded = []
        yield from self._classify(decoded, top, engine, say)

    def _classify(
        self,
        decoded: Sequence[tuple[str, Tensor | UserError]],
        top: int,
        engine: str,
        say: Callable[[str], None],
    ) -> Iterator[tuple[str, Classes | UserError]]:
        images = [image for _, image in decoded if isinstance(image, Tensor)]
        probabilities = iter(self._run(torch.stack(images), engine, say).softmax(1).numpy() if images else [])
        for file, image in decoded:
            if isinstance(image, UserError):
                yield file, image
            else:
                p = next(probabilities)
                yield (
                    file,
                    [(self.metadata.classes[i], float(p[i])) for i in np.argsort(-p, kind="stable")[:top]],
                )

    def _run(self, images: Tensor, name: str, say: Callable[[str], None]) -> Tensor:
        if name not in self.engines:
            engine = build_engine(self.inference_module(), images, name)
            self.engines[name] = engine
            say(f"engine {engine.name}: {engine.why}")
        with self.runtime.turn(say):
            return self.engines[name](images)


def choose_precision(metadata: ClassifierMetadata, device: torch.device) -> Precision:
    """That of the training where the device multiplies it in hardware, else fp32."""
    return metadata.precision if metadata.precision == best_precision(device) else "fp32"
