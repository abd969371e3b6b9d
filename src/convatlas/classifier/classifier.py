"""A trained network with all that it takes to classify images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.classifier.model_file import ClassifierMetadata, named_tensors, read_model_file
from convatlas.data import Dataset
from convatlas.data.images.decode import open_image
from convatlas.data.images.prefetch import decode_ahead
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import Preprocessing, fixed_size_preprocessing
from convatlas.errors import UsageError, UserError, printable
from convatlas.inference import Engine
from convatlas.inference import engine as build_engine
from convatlas.runtime.device import best_precision, select_device
from convatlas.runtime.memory import tune_malloc
from convatlas.runtime.runtime import Runtime
from convatlas.storage.checked_safetensors import hash_tensors
from convatlas.storage.records import record_sha256

BATCH_SIZE = 32  # images that go through the network at once

Classes = list[tuple[str, float]]  # names and probabilities, the likeliest first


class Classifier:
    """A trained network, its classes and its preprocessing.

    It runs on `runtime`, by default the machine's best device.
    """

    def __init__(
        self,
        metadata: ClassifierMetadata,
        model: nn.Module,
        normalizer: Normalizer,
        runtime: Runtime | None = None,
    ):
        self.metadata = metadata
        self.engines: dict[str, Engine] = {}  # built, by the name that was requested
        if runtime is None:
            device = select_device()
            precision = metadata.precision if metadata.precision == best_precision(device) else "fp32"
            runtime = Runtime(device, precision)
        self.runtime = runtime
        self.model = runtime.to_device(model.eval())
        self.normalizer = normalizer.to(runtime.device)

    @property
    def training_data(self) -> str:
        """The name of the data that it was trained on. Raises UsageError where its file does not say."""
        name = self.metadata.provenance.get("data")
        if not name:
            raise UsageError("this classifier does not say what it was trained on: name the data with --data")
        return str(name)

    @property
    def weights_sha256(self) -> str:
        """A hash of the architecture, the preprocessing and all tensors: equal if the logits must be."""
        description = [self.metadata.network, self.metadata.preprocessing]
        return record_sha256([description, hash_tensors(named_tensors(self.model, self.normalizer))])

    def preprocessing_for(self, dataset: Dataset) -> Preprocessing:
        """The preprocessing of a data set's images.

        Raises UsageError for images with another number of channels, and for a store whose pixels were packed
        by another scale.
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
        if dataset.channels != channels:
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
        with torch.inference_mode(), self.runtime.autocast():
            logits: Tensor = self.model(self.normalizer(images))
        return logits.float()

    def predict(self, files: Iterable[str | Path], top: int = 5, engine: str = "auto") -> list[Classes]:
        """For each image file, its `top` likeliest classes with their probabilities.

        Raises UserError for a file that is no image.
        """
        predictions = []
        for _, classes in self.predict_iter(files, top, engine):
            if isinstance(classes, UserError):
                raise classes
            predictions.append(classes)
        return predictions

    def features(
        self,
        images: Tensor | Iterable[str | Path],
        paths: Sequence[str] = (models.PENULTIMATE,),
        batch: int = 32,
    ) -> dict[str, Tensor]:
        """The outputs of the network's modules at `paths` for every image, float32 on the CPU.

        `images` are files, or uint8 (n, channels, *size). "penultimate" is the vector that the last layer
        classifies. Raises UsageError for a path that does not exist, naming the nearest, and UserError for a
        file that is no image.
        """
        assert isinstance(self.model, models.Network)
        if not isinstance(images, Tensor):
            images = torch.stack(
                [self.metadata.preprocessing.transform(open_image(Path(file))) for file in images]
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
        files: Iterable[str | Path],
        top: int = 5,
        engine: str = "auto",
        batch: int = BATCH_SIZE,
        say: Callable[[str], None] = lambda line: None,
    ) -> Iterator[tuple[str, Classes | UserError]]:
        """Yield (file, its classes, or why it cannot be read) as they come; the next files are decoded
        meanwhile.

        `say` is called with a line that names the engine, and why it was chosen.
        """
        decoded: list[tuple[str, Tensor | UserError]] = []
        for file, image in decode_ahead(files, self.metadata.preprocessing.transform, 2 * batch):
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
        return self.engines[name](images)


def load(path: str | Path) -> Classifier:
    """The classifier of a run folder or a `model.safetensors` file.

    Raises UserError when the file is missing, damaged, or does not fit its network.
    """
    tune_malloc()
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if path.is_dir() and not file.exists():
        is_run = (path / "run.json").exists()
        hint = f"finish it with: convatlas train --resume {path}" if is_run else "expected a run folder"
        raise UserError(f"{printable(path)} holds no model.safetensors: {hint}")
    return Classifier(*read_model_file(file))
