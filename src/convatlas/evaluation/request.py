"""One classifier evaluated on a split by a protocol: everything is checked before anything is computed, and
predictions are cached."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convatlas import models
from convatlas.classifier import Classifier
from convatlas.data import Dataset, Split
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.loader import default_num_workers
from convatlas.data.loading.multi_crop_batches import MultiCropBatches
from convatlas.data.sources.class_names import imagenet_wnids_and_names
from convatlas.data.transforms.multi_crop import FullImage
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import Preprocessing, UnreadableSample
from convatlas.errors import UsageError, printable
from convatlas.evaluation import metrics, prediction_cache
from convatlas.evaluation.partial_predictions import PartialPredictions
from convatlas.evaluation.predict import BatchPredictions, logit_rows, merge_batches, predict_batches
from convatlas.evaluation.predictions import FORMAT, Predictions, PredictionsMetadata
from convatlas.evaluation.protocols import EvalProtocol
from convatlas.models.fully_convolutional import FullyConvolutional
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.storage.records import record_sha256


class EnsembleMember(NamedTuple):
    """A classifier, its name for the user, and the folder of its cached predictions (None: no cache)."""

    name: str
    classifier: Classifier
    cache_dir: Path | None


class EvalRequest(NamedTuple):
    """The evaluation of a member on the samples of `split` at `indices` (None: all).

    `class_indices` maps the labels of the data to the classes of the member.
    """

    member: EnsembleMember
    protocol: EvalProtocol
    split: Split
    indices: metrics.Labels | None
    preprocessing: Preprocessing
    class_indices: metrics.Labels
    hflip_safe: bool
    metadata: PredictionsMetadata

    @property
    def batches(self) -> EvalBatches | MultiCropBatches:
        split = self.split if self.indices is None else self.split.subset(self.indices)
        batch_size = self.member.classifier.metadata.batch
        if self.protocol.views is None:
            return EvalBatches(split, self.preprocessing, batch_size)
        return MultiCropBatches(split, self.preprocessing, self.protocol.views, batch_size, self.hflip_safe)

    @property
    def views_per_image(self) -> int:
        source = self.batches
        return source.views_per_image if isinstance(source, MultiCropBatches) else 1


def make_request(
    member: EnsembleMember,
    protocol: EvalProtocol,
    dataset: Dataset,
    split: str,
    indices: metrics.Labels | None,
) -> EvalRequest:
    """Check that the member can be evaluated on this data by this protocol. Raises UsageError if it
    cannot."""
    classifier = member.classifier
    metadata = classifier.metadata
    network = metadata.network.name
    name = printable(member.name)
    if dataset.task != "classification":
        raise UsageError(
            f"{printable(dataset.name)} has masks, and {name} is a {network}, which classifies images: give "
            "a network that labels pixels, or data with labels"
        )
    height, width = metadata.preprocessing.input_size
    if protocol.views is not None and height != width:
        raise UsageError(
            f"{name} takes images of {height}x{width}, and the crops of {protocol.source} are squares: "
            "use --crops center"
        )
    preprocessing = classifier.preprocessing_for(dataset)
    settings = [protocol.views, protocol.average, dataset.hflip_safe, preprocessing, metadata.batch]
    predictions_metadata = PredictionsMetadata(
        format=FORMAT,
        run=str(metadata.provenance.get("run") or ""),
        data=dataset.name,
        data_sha256=dataset.sha256,
        split=split,
        crops=protocol.name,
        classes=metadata.classes,
        model=classifier.weights_sha256,
        subset=prediction_cache.subset_id(indices),
        protocol=record_sha256(settings),
        precision=classifier.runtime.precision,
        environment=dict(classifier.runtime.environment()),
    )
    return EvalRequest(
        member,
        protocol,
        dataset.splits[split],
        indices,
        preprocessing,
        class_indices(dataset, classifier),
        dataset.hflip_safe,
        predictions_metadata,
    )


def run_request(request: EvalRequest, ranks: Ranks = SINGLE_PROCESS) -> tuple[Predictions, bool, list[str]]:
    """Predictions from the cache or computed now, whether they were cached, and notes for the user. The ranks
    share the batches, and each gets all predictions.

    Labels and columns are the classes of the member, indices those of the whole split. Raises UserError as
    `merge_batches` does, and UsageError as `FullyConvolutional` does.
    """
    folder = request.member.cache_dir
    notes: list[str] = []
    if folder is not None:
        cached_predictions, notes = ranks.run_on_main(
            lambda: prediction_cache.load_cached(folder, request.metadata, request.indices)
        )
        if cached_predictions is not None:
            return cached_predictions, True, notes
    partial = _partial_predictions(request, ranks)
    split = request.batches.split
    rows = merge_batches(_predict_all(request, partial, ranks), split)
    labels = request.class_indices[split.labels[rows.indices]]
    predictions = Predictions(rows.values, labels, rows.indices, rows.unreadable, request.metadata)
    if request.indices is not None:
        predictions = _with_split_indices(predictions, request.indices)
    if folder is not None:
        notes += ranks.run_on_main(lambda: prediction_cache.store(folder, predictions))
        ranks.run_on_main(partial.remove)
    return predictions, False, notes


def _partial_predictions(request: EvalRequest, ranks: Ranks) -> PartialPredictions:
    folder = request.member.cache_dir
    if folder is not None:
        folder = prediction_cache.cache_file(folder, request.metadata).with_suffix(".partial")
    return PartialPredictions(folder, request.metadata, ranks.rank)


def _predict_all(request: EvalRequest, partial: PartialPredictions, ranks: Ranks) -> list[BatchPredictions]:
    """The batches that were saved before, and the others, of which each rank computes its share."""
    member, protocol, source = request.member, request.protocol, request.batches
    saved = ranks.run_on_main(partial.read)
    missing = _missing_steps(saved, len(source.split), source.images_per_step)
    computed: list[BatchPredictions] = []
    logits_fn = _logits_fn(member.classifier, protocol)
    batches = predict_batches(
        logit_rows(logits_fn, member.classifier.runtime.device, protocol.average),
        source,
        missing[ranks.rank :: ranks.world_size],
        default_num_workers(request.split, ranks),
        f"{printable(member.name)}, {protocol.label}",
        ranks,
    )
    try:
        with closing(batches):
            for batch in batches:
                computed.append(batch)
                partial.add(batch)
    except BaseException:  # also StoppedBySignal
        partial.save()
        raise
    if ranks.world_size > 1:
        partial.save()  # another rank may be lost before it has sent its share
    return [*saved, *chain(*ranks.all_gather(computed))]


def _missing_steps(saved: Sequence[BatchPredictions], num_images: int, images_per_step: int) -> list[int]:
    """The steps with a sample that is neither predicted nor known to be unreadable."""
    complete = np.zeros(num_images, bool)
    for batch in saved:
        complete[batch.indices] = True
        complete[[sample.index for sample in batch.unreadable]] = True
    return [
        step
        for step, start in enumerate(range(0, num_images, images_per_step))
        if not complete[start : start + images_per_step].all()
    ]


def _with_split_indices(predictions: Predictions, indices: metrics.Labels) -> Predictions:
    """Predictions on the samples at `indices`, with their indices in the whole split."""
    unreadable = [
        UnreadableSample(int(indices[sample.index]), sample.file, sample.reason)
        for sample in predictions.unreadable
    ]
    return replace(predictions, indices=indices[predictions.indices], unreadable=unreadable)


def _logits_fn(classifier: Classifier, protocol: EvalProtocol) -> Callable[[Tensor], Tensor]:
    """The function from uint8 images to logits, float32. For full images the logits are the mean of the map
    of class scores."""
    if not isinstance(protocol.views, FullImage):
        return classifier.logits
    model = classifier.model
    assert isinstance(model, models.Network)
    with torch.inference_mode(), classifier.runtime.autocast():
        fully_convolutional = FullyConvolutional(model, classifier.metadata.preprocessing.input_size)
    # a mean image has the size of the network's input: from a larger image its mean colour is subtracted
    mean, std = classifier.normalizer.mean, classifier.normalizer.std
    normalizer = Normalizer(mean.mean((1, 2), keepdim=True), std.mean((1, 2), keepdim=True))

    def mean_scores(images: Tensor) -> Tensor:
        with torch.inference_mode(), classifier.runtime.autocast():
            scores: Tensor = fully_convolutional(normalizer(images))
        return scores.float().mean((2, 3))

    return mean_scores


def class_indices(dataset: Dataset, classifier: Classifier) -> metrics.Labels:
    """(classes of the data,): the index of each in the classifier, also where the data has the ids of
    ImageNet's classes and the classifier their names. Raises UsageError for a class that it lacks."""
    class_index = {name: i for i, name in enumerate(classifier.metadata.classes)}
    if not class_index.keys() >= set(dataset.classes):
        names = imagenet_wnids_and_names()
        class_index |= {wnid: class_index[name] for wnid, name in names if name in class_index}
    unknown = [name for name in dataset.classes if name not in class_index]
    if unknown:
        raise UsageError(
            f"{dataset.name} has {len(unknown)} classes that the classifier lacks, {unknown[0]!r} first: "
            f"expected only {', '.join(classifier.metadata.classes[:10])}"
        )
    return np.array([class_index[name] for name in dataset.classes])
