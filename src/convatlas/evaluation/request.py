"""One classifier, asked about a split as a paper does it: what fits is checked before anything is computed; answers are kept and reused."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas import models
from convatlas.classifier import Classifier
from convatlas.data import Dataset, Split
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.loader import default_num_workers
from convatlas.data.loading.multi_crop_batches import MultiCropBatches
from convatlas.data.transforms.multi_crop import FullImage
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import Preprocessing, UnreadableSample
from convatlas.errors import UsageError, printable
from convatlas.evaluation import image_list, metrics, prediction_cache, predictions
from convatlas.evaluation.predict import Predictions, predict_split
from convatlas.evaluation.predictions import PredictionsMetadata
from convatlas.evaluation.protocols import EvalProtocol
from convatlas.models.fully_convolutional import FullyConvolutional
from convatlas.storage.checked_safetensors import hash_tensors
from convatlas.storage.records import record_sha256


class EnsembleMember(NamedTuple):
    """A classifier, what it is called, and the folder where its answers are kept (None: nowhere)."""

    name: str
    classifier: Classifier
    cache_dir: Path | None


class EvalRequest(NamedTuple):
    """A member asked about the images of `split` at `places` (None: all). `labels` are its own classes' numbers, by the data's."""

    member: EnsembleMember
    protocol: EvalProtocol
    split: Split
    indices: NDArray[np.int64] | None
    preprocessing: Preprocessing
    class_indices: metrics.Labels
    hflip_safe: bool
    metadata: PredictionsMetadata

    @property
    def batches(self) -> EvalBatches | MultiCropBatches:
        """The batches that the member sees."""
        seen = self.split if self.indices is None else image_list.choose(self.split, self.indices)
        batch = self.member.classifier.metadata.batch
        if self.protocol.views is None:
            return EvalBatches(seen, self.preprocessing, batch)
        return MultiCropBatches(seen, self.preprocessing, self.protocol.views, batch, self.hflip_safe)

    @property
    def views_per_image(self) -> int:
        """That the member sees of each picture."""
        source = self.batches
        return source.views_per_image if isinstance(source, MultiCropBatches) else 1


class EvalResult(NamedTuple):
    """What a member answered: `labels` and columns are its own classes. `reused` from an earlier evaluation."""

    predictions: Predictions
    cached: bool
    notes: list[str]


def make_request(
    member: EnsembleMember, protocol: EvalProtocol, dataset: Dataset, split: str, places: NDArray[np.int64] | None
) -> EvalRequest:
    """Raises UsageError when the member cannot be asked this."""
    classifier = member.classifier
    network = classifier.metadata.network.name
    if models.get_entry(network).task != "classification":
        raise UsageError(f"{printable(member.name)} is a {network}, which labels pixels: eval takes networks that classify images")
    height, width = classifier.metadata.preprocessing.size
    if protocol.views is not None and height != width:
        what = f"sees images of {height}x{width}, and the crops of {protocol.source} are squares"
        raise UsageError(f"{printable(member.name)} {what}: use --crops center")
    geometry = classifier.preprocessing_for(dataset)
    weights = classifier.model.state_dict() | {f"preprocessing.{name}": t for name, t in classifier.normalizer.state_dict().items()}
    card = PredictionsMetadata(
        format=predictions.FORMAT,
        run=str(classifier.metadata.provenance.get("run") or ""),
        data=dataset.name,
        digest=dataset.sha256,
        split=split,
        crops=protocol.name,
        classes=classifier.metadata.classes,
        model=record_sha256([classifier.metadata.network, hash_tensors(weights)]),
        subset=prediction_cache.subset_id(places),
        protocol=record_sha256([protocol.views, protocol.average, dataset.hflip_safe, geometry, classifier.metadata.batch]),
        precision=classifier.runtime.precision,
        environment=dict(classifier.runtime.environment()),
    )
    return EvalRequest(
        member, protocol, dataset.splits[split], places, geometry, _class_indices(dataset, classifier), dataset.hflip_safe, card
    )


def run_request(request: EvalRequest) -> EvalResult:
    """What the member answers, kept or computed now. Raises UserError as `answers` does, UsageError as FullyConvolutional does."""
    member, protocol, places = request.member, request.protocol, request.indices
    notes: list[str] = []
    if member.cache_dir is not None:
        found, notes = prediction_cache.load_cached(member.cache_dir, request.metadata, places)
        if found is not None:
            return EvalResult(found, True, notes)
    device, workers = member.classifier.runtime.device, default_num_workers(request.split)
    shown = f"{printable(member.name)}, {protocol.label}"
    found = predict_split(_logits_fn(member.classifier, protocol), request.batches, device, workers, protocol.average, shown)
    if places is not None:
        unread = [UnreadableSample(int(places[one.index]), one.file, one.reason) for one in found.unreadable]
        found = found._replace(indices=places[found.indices], unreadable=unread)
    found = found._replace(labels=request.class_indices[found.labels])
    if member.cache_dir is not None:
        notes += prediction_cache.store(member.cache_dir, request.metadata, found)
    return EvalResult(found, False, notes)


def _logits_fn(classifier: Classifier, protocol: EvalProtocol) -> Callable[[Tensor], Tensor]:
    """uint8 images -> logits, float32; for whole pictures the mean of the map of class scores."""
    if not isinstance(protocol.views, FullImage):
        return classifier.logits
    model, own = classifier.model, classifier.normalizer
    assert isinstance(model, models.Network)
    with torch.inference_mode(), classifier.runtime.autocast():
        everywhere = FullyConvolutional(model, classifier.metadata.preprocessing.size)
    # a mean image is one of the network's own size: of a larger picture its mean colour is subtracted
    standardise = Normalizer(own.mean.mean((1, 2), keepdim=True), own.std.mean((1, 2), keepdim=True))

    def scorer(images: Tensor) -> Tensor:
        with torch.inference_mode(), classifier.runtime.autocast():
            scores: Tensor = everywhere(standardise(images))
        return scores.float().mean((2, 3))

    return scorer


def _class_indices(dataset: Dataset, classifier: Classifier) -> metrics.Labels:
    known = {name: i for i, name in enumerate(classifier.metadata.classes)}
    strangers = [name for name in dataset.classes if name not in known]
    if strangers:
        raise UsageError(
            f"{dataset.name} has {len(strangers)} classes that the classifier lacks, {strangers[0]!r} first: "
            f"expected only {', '.join(classifier.metadata.classes[:10])}"
        )
    return np.array([known[name] for name in dataset.classes])
