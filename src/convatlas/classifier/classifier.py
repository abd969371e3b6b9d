"""A trained network with all that it takes to classify images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from convatlas import models
from convatlas.classifier.model_file import FORMAT, MAX_BATCH, ClassifierMetadata
from convatlas.data import Dataset
from convatlas.data.images import decode as image_files
from convatlas.data.images.prefetch import decode_ahead
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import Preprocessing, fixed_size_preprocessing
from convatlas.errors import UsageError, UserError, printable, unknown_name
from convatlas.runtime.device import best_precision, select_device
from convatlas.runtime.memory import tune_malloc
from convatlas.runtime.runtime import Runtime
from convatlas.storage import checked_safetensors
from convatlas.storage.records import from_json

BATCH_SIZE = 32  # images that go through the network at once


class Engine(Protocol):
    """What runs the network: uint8 images as the preprocessing leaves them -> logits, float32, on the CPU."""

    @property
    def name(self) -> str: ...
    @property
    def why(self) -> str:
        """How it came to be this one."""

    def __call__(self, images: Tensor) -> Tensor: ...


class InPyTorch:
    """The engine of a classifier that was given no others."""

    name, why = "eager", "no other engine was given"

    def __init__(self, classifier: "Classifier", example: Tensor, name: str):
        if name not in ("auto", "eager"):
            raise unknown_name("engine", name, ("auto", "eager"))
        self.classifier = classifier

    def __call__(self, images: Tensor) -> Tensor:
        return self.classifier.logits(images.to(self.classifier.runtime.device)).cpu()


class Classifier:
    """A trained network with all that it takes to use it. `engines(classifier, example, name)` makes what `predict` runs it with."""

    def __init__(
        self,
        metadata: ClassifierMetadata,
        model: torch.nn.Module,
        normalizer: Normalizer,
        runtime: Runtime | None = None,
        engines: "Engines" = InPyTorch,
    ):
        self.metadata, self.engines = metadata, engines
        self.running: dict[str, Engine] = {}  # by the name that was asked for
        if runtime is None:
            device = select_device()
            runtime = Runtime(device, metadata.precision if metadata.precision == best_precision(device) else "fp32")
        self.runtime = runtime
        self.model = runtime.to_device(model.eval())
        self.normalizer = normalizer.to(runtime.device)

    @property
    def training_data(self) -> str:
        """The data. Raises UsageError for a classifier that does not say."""
        name = self.metadata.provenance.get("data")
        if not name:
            raise UsageError("this classifier does not say what it was trained on: name the data with --data")
        return str(name)

    def preprocessing_for(self, dataset: Dataset) -> Preprocessing:
        """How images of a data set come to the network's size. Raises UsageError for images with other channels."""
        wanted = self.metadata.preprocessing
        if dataset.size is None:
            return wanted
        if dataset.channels != wanted.channels:
            raise UsageError(f"{dataset.name} has {dataset.channels} channels, the classifier takes {wanted.channels}")
        return wanted if dataset.size == wanted.source else fixed_size_preprocessing(wanted.channels, dataset.size, wanted.size)

    def logits(self, images: Tensor) -> Tensor:
        """uint8 images (n, channels, *size) -> logits (n, classes), float32."""
        with torch.inference_mode(), self.runtime.autocast():
            logits: Tensor = self.model(self.normalizer(images))
        return logits.float()

    def predict(self, files: Iterable[str | Path], top: int = 5, engine: str = "auto") -> list[list[tuple[str, float]]]:
        """For each image file, its `top` likeliest classes with their probabilities. Raises UserError for a file that is no image."""
        found = []
        for _, answer in self.predict_iter(files, top, engine):
            if isinstance(answer, UserError):
                raise answer
            found.append(answer)
        return found

    def features(
        self, images: Tensor | Iterable[str | Path], paths: Sequence[str] = (models.PENULTIMATE,), batch: int = 32
    ) -> dict[str, Tensor]:
        """The outputs of the network's modules at `paths` for every image, float32 on the CPU; "penultimate" is the vector that the
        last layer classifies.

        `images` are files, or uint8 (n, channels, *size). Raises UsageError for a path that does not exist, naming the nearest, and
        UserError for a file that is no image.
        """
        assert isinstance(self.model, models.Network)
        if not isinstance(images, Tensor):
            read = [self._read(Path(file)) for file in images]
            for image in read:
                if isinstance(image, UserError):
                    raise image
            images = torch.stack([image for image in read if isinstance(image, Tensor)])
        found: dict[str, list[Tensor]] = {path: [] for path in paths}
        with torch.inference_mode(), self.runtime.autocast():
            for start in range(0, len(images), batch):
                standard = self.normalizer(images[start : start + batch].to(self.runtime.device))
                for path, value in models.features(self.model, standard, paths).items():
                    found[path].append(value.float().cpu())
        return {path: torch.cat(values) for path, values in found.items()}

    def predict_iter(
        self,
        files: Iterable[str | Path],
        top: int = 5,
        engine: str = "auto",
        batch: int = BATCH_SIZE,
        say: Callable[[str], None] = lambda line: None,
    ) -> Iterator[tuple[str, list[tuple[str, float]] | UserError]]:
        """(file, its classes with probabilities, or what is wrong with it), as they come: the next files are decoded meanwhile. `say`
        hears which engine runs, and why."""
        waiting: list[tuple[str, Tensor | UserError]] = []
        for one in decode_ahead(files, self.metadata.preprocessing.transform, 2 * batch):
            waiting.append(one)
            if len(waiting) == batch:
                yield from self._classify(waiting, top, engine, say)
                waiting = []
        yield from self._classify(waiting, top, engine, say)

    def _read(self, file: Path) -> Tensor | UserError:
        try:
            return self.metadata.preprocessing.transform(image_files.open_image(file))
        except UserError as error:
            return error

    def _classify(
        self, waiting: Sequence[tuple[str, Tensor | UserError]], top: int, engine: str, say: Callable[[str], None]
    ) -> Iterator[tuple[str, list[tuple[str, float]] | UserError]]:
        images = [image for _, image in waiting if isinstance(image, Tensor)]
        probabilities = iter(self._run(torch.stack(images), engine, say).softmax(1).numpy() if images else [])
        for file, image in waiting:
            if isinstance(image, UserError):
                yield file, image
            else:
                p = next(probabilities)
                yield file, [(self.metadata.classes[i], float(p[i])) for i in np.argsort(-p, kind="stable")[:top]]

    def _run(self, images: Tensor, engine: str, say: Callable[[str], None]) -> Tensor:
        if engine not in self.running:
            self.running[engine] = self.engines(self, images, engine)
            say(f"engine {self.running[engine].name}: {self.running[engine].why}")
        return self.running[engine](images)


Engines = Callable[[Classifier, Tensor, str], Engine]


def load(path: str | Path, engines: Engines = InPyTorch) -> Classifier:
    """A run folder or a `model.safetensors` file. Raises UserError when it is missing, damaged, or does not fit the network."""
    tune_malloc()
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if path.is_dir() and not file.exists():
        hint = f"finish it with: convatlas train --resume {path}" if (path / "run.json").exists() else "expected a run folder"
        raise UserError(f"{printable(path)} holds no model.safetensors: {hint}")
    tensors, document = checked_safetensors.read_checked(file)
    version = from_json(document, dict[str, Any], f"{file}, its metadata").get("format")
    if version != FORMAT:
        raise UserError(f"{file} has format version {printable(version)[:20]}: this ConvAtlas reads version {FORMAT}")
    card = from_json(document, ClassifierMetadata, f"{file}, its metadata")
    if card.network.arguments.get("num_classes") != len(card.classes):
        raise UserError(f"{file} names {len(card.classes)} classes but its network has {card.network.arguments.get('num_classes')}")
    if len(set(card.classes)) != len(card.classes):
        raise UserError(f"{file} names a class twice: classes are matched by their names")
    if not 0 < card.batch <= MAX_BATCH:
        raise UserError(f"{file} says that it is evaluated {card.batch} images at once: expected 1 to {MAX_BATCH:,}")
    with torch.device("meta"):
        model = models.build(card.network)
    geometry = card.preprocessing
    standard = {name: tensors.pop(f"preprocessing.{name}", torch.empty(0)) for name in ("mean", "std")}
    if any(t.shape not in ((geometry.channels, 1, 1), (geometry.channels, *geometry.size)) for t in standard.values()):
        raise UserError(f"{file} does not hold the preprocessing that its metadata describes")
    if {name: t.shape for name, t in model.state_dict().items()} != {name: t.shape for name, t in tensors.items()}:
        raise UserError(f"{file} does not hold the weights of the {card.network.name} that its metadata describes")
    if not all(t.isfinite().all() for t in (*tensors.values(), *standard.values())):
        raise UserError(f"{file} holds weights that are not finite")
    model = models.build(card.network)
    model.load_state_dict(tensors)
    return Classifier(card, model, Normalizer(standard["mean"], standard["std"]), engines=engines)
