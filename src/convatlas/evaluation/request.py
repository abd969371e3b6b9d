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
from convatlas.data.loading.eval_batches import Fixed
from convatlas.data.loading.loader import workers_for
from convatlas.data.loading.multi_crop_batches import Viewed
from convatlas.data.transforms.multi_crop import Dense
from convatlas.data.transforms.normalize import Standardiser
from convatlas.data.transforms.preprocessing import Preprocessing, Unread
from convatlas.errors import UsageError, printable
from convatlas.evaluation import image_list, metrics, prediction_cache, predictions
from convatlas.evaluation.predict import Answers, answers
from convatlas.evaluation.predictions import Card
from convatlas.evaluation.protocols import Protocol
from convatlas.models.fully_convolutional import FullyConvolutional
from convatlas.storage.checked_safetensors import fingerprint
from convatlas.storage.records import identify


class Member(NamedTuple):
    """A classifier, what it is called, and the folder where its answers are kept (None: nowhere)."""

    name: str
    classifier: Classifier
    home: Path | None


class Question(NamedTuple):
    """A member asked about the images of `split` at `places` (None: all). `labels` are its own classes' numbers, by the data's."""

    member: Member
    protocol: Protocol
    split: Split
    places: NDArray[np.int64] | None
    geometry: Preprocessing
    labels: metrics.Labels
    mirrors: bool
    card: Card

    @property
    def source(self) -> Fixed | Viewed:
        """The batches that the member sees."""
        seen = self.split if self.places is None else image_list.choose(self.split, self.places)
        batch = self.member.classifier.card.batch
        if self.protocol.views is None:
            return Fixed(seen, self.geometry, batch)
        return Viewed(seen, self.geometry, self.protocol.views, batch, self.mirrors)

    @property
    def windows(self) -> int:
        """That the member sees of each picture."""
        source = self.source
        return source.windows if isinstance(source, Viewed) else 1


class Said(NamedTuple):
    """What a member answered: `labels` and columns are its own classes. `reused` from an earlier evaluation."""

    answers: Answers
    reused: bool
    notes: list[str]


def question(member: Member, protocol: Protocol, dataset: Dataset, split: str, places: NDArray[np.int64] | None) -> Question:
    """Raises UsageError when the member cannot be asked this."""
    classifier = member.classifier
    network = classifier.card.network.name
    if models.find(network).task != "classification":
        raise UsageError(f"{printable(member.name)} is a {network}, which labels pixels: eval takes networks that classify images")
    height, width = classifier.card.preprocessing.size
    if protocol.views is not None and height != width:
        what = f"sees images of {height}x{width}, and the crops of {protocol.source} are squares"
        raise UsageError(f"{printable(member.name)} {what}: use --crops center")
    geometry = classifier.geometry(dataset)
    weights = classifier.model.state_dict() | {f"preprocessing.{name}": t for name, t in classifier.standardiser.state_dict().items()}
    card = Card(
        format=predictions.FORMAT,
        run=str(classifier.card.provenance.get("run") or ""),
        data=dataset.name,
        digest=dataset.digest,
        split=split,
        crops=protocol.name,
        classes=classifier.card.classes,
        model=identify([classifier.card.network, fingerprint(weights)]),
        subset=prediction_cache.places_id(places),
        protocol=identify([protocol.views, protocol.average, dataset.mirrors, geometry, classifier.card.batch]),
        precision=classifier.runtime.precision,
        environment=dict(classifier.runtime.environment()),
    )
    return Question(member, protocol, dataset.splits[split], places, geometry, _by_name(dataset, classifier), dataset.mirrors, card)


def ask(asked: Question) -> Said:
    """What the member answers, kept or computed now. Raises UserError as `answers` does, UsageError as FullyConvolutional does."""
    member, protocol, places = asked.member, asked.protocol, asked.places
    notes: list[str] = []
    if member.home is not None:
        found, notes = prediction_cache.find(member.home, asked.card, places)
        if found is not None:
            return Said(found, True, notes)
    device, workers = member.classifier.runtime.device, workers_for(asked.split)
    shown = f"{printable(member.name)}, {protocol.says}"
    found = answers(_scorer(member.classifier, protocol), asked.source, device, workers, protocol.average, shown)
    if places is not None:
        unread = [Unread(int(places[one.index]), one.file, one.reason) for one in found.unread]
        found = found._replace(indices=places[found.indices], unread=unread)
    found = found._replace(labels=asked.labels[found.labels])
    if member.home is not None:
        notes += prediction_cache.keep(member.home, asked.card, found)
    return Said(found, False, notes)


def _scorer(classifier: Classifier, protocol: Protocol) -> Callable[[Tensor], Tensor]:
    """uint8 images -> logits, float32; for whole pictures the mean of the map of class scores."""
    if not isinstance(protocol.views, Dense):
        return classifier.logits
    model, own = classifier.model, classifier.standardiser
    assert isinstance(model, models.Network)
    with torch.inference_mode(), classifier.runtime.autocast():
        everywhere = FullyConvolutional(model, classifier.card.preprocessing.size)
    # a mean image is one of the network's own size: of a larger picture its mean colour is subtracted
    standardise = Standardiser(own.mean.mean((1, 2), keepdim=True), own.std.mean((1, 2), keepdim=True))

    def scorer(images: Tensor) -> Tensor:
        with torch.inference_mode(), classifier.runtime.autocast():
            scores: Tensor = everywhere(standardise(images))
        return scores.float().mean((2, 3))

    return scorer


def _by_name(dataset: Dataset, classifier: Classifier) -> metrics.Labels:
    known = {name: i for i, name in enumerate(classifier.card.classes)}
    strangers = [name for name in dataset.classes if name not in known]
    if strangers:
        raise UsageError(
            f"{dataset.name} has {len(strangers)} classes that the classifier lacks, {strangers[0]!r} first: "
            f"expected only {', '.join(classifier.card.classes[:10])}"
        )
    return np.array([known[name] for name in dataset.classes])
