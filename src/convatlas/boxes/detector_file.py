"""A detector in one checked file: the network of its features, its linear classifiers and its regressors."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from convatlas.boxes.arrays import Array
from convatlas.boxes.features import RegionFeatures
from convatlas.boxes.linear import Linear
from convatlas.boxes.proposal_methods import Proposals
from convatlas.boxes.rcnn import RCNN
from convatlas.boxes.region_extractor import RegionExtractor
from convatlas.boxes.scorers import Scorer, SoftmaxScorer
from convatlas.classifier import ClassifierMetadata
from convatlas.classifier.model_file import (
    DETECTOR_KEY,
    FILE_NAME,
    FORMAT,
    build_model,
    check_class_names,
    check_format,
    find_model_file,
    named_tensors,
)
from convatlas.classifier.open_classifier import open_model
from convatlas.errors import UsageError, UserError, printable
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.storage.checked_safetensors import peek_document, read_checked, write_checked
from convatlas.storage.records import Record, from_json

NETWORK = "network."  # before the names of the network's tensors


class RegionsMetadata(Record, frozen=True, kw_only=True):
    """How regions are proposed and described: `layer` is the path of a module of the network."""

    layer: str
    context: int
    grid: int
    proposals: Proposals


class DetectorMetadata(Record, frozen=True, kw_only=True):
    """What stands in the file beside the weights. `regressed` are the classes that have a regressor, by
    their indices; `pairs` the number of pairs that each was fitted to."""

    format: int
    network: ClassifierMetadata
    regions: RegionsMetadata
    classes: tuple[str, ...]
    scorer: Literal["softmax", "svm"]
    scale: float
    regressed: tuple[int, ...]
    pairs: tuple[int, ...]
    provenance: dict[str, Any]


class DetectorParts(NamedTuple):
    """The content of a detector's file."""

    metadata: DetectorMetadata
    extractor: RegionExtractor
    rcnn: RCNN


def holds_detector(path: str | Path) -> bool:
    """Whether a file, or the model.safetensors of a folder, describes itself as a detector. False for what
    cannot be read: its reader says why."""
    file = Path(path)
    document = peek_document(file / FILE_NAME if file.is_dir() else file)
    try:
        keys = msgspec.json.decode(document or b"{}")
    except (ValueError, RecursionError):
        return False
    return isinstance(keys, dict) and DETECTOR_KEY in keys


def write_detector(file: Path, parts: DetectorParts) -> None:
    """Raises OSError."""
    metadata, extractor, rcnn = parts
    classifier = extractor.features.classifier
    network = named_tensors(classifier.model, classifier.normalizer)
    linear = scorer_linear(rcnn.scorer)
    regressors = np.array([rcnn.regressors[label] for label in metadata.regressed])
    tensors = {f"{NETWORK}{name}": tensor for name, tensor in network.items()} | {
        "scorer.weights": torch.from_numpy(linear.weights),
        "scorer.biases": torch.from_numpy(linear.biases),
        "regressors": torch.from_numpy(regressors.reshape(-1, len(linear.weights), 4)),
    }
    write_checked(file, tensors, metadata)


def scorer_linear(scorer: Scorer) -> Linear:
    """The linear functions of a scorer. Raises UsageError for one that is none of scorers.py's."""
    linear = scorer.linear if isinstance(scorer, SoftmaxScorer) else scorer
    if not isinstance(linear, Linear):
        raise UsageError(
            "a detector's file holds the scorers of fit_softmax_scorer and fit_svm_scorer, not a "
            f"{type(scorer).__name__}"
        )
    return linear


def read_detector(path: str | Path, ranks: Ranks = SINGLE_PROCESS) -> DetectorParts:
    """The detector of a file, or of a folder that holds a model.safetensors, on this rank's device.

    Raises UserError for a file that is missing, damaged, of another format, or inconsistent; UsageError for
    one that holds a network alone.
    """
    file = find_model_file(path)
    tensors, document = read_checked(file)
    name = f"{file}, its metadata"
    keys = from_json(document, dict[str, Any], name)
    if DETECTOR_KEY not in keys:
        raise UsageError(
            f"{printable(file)} holds a network and no detector: ca.load(PATH) opens it, and "
            "ca.boxes.train_detector makes a detector with it"
        )
    check_format(file, keys.get("format"))
    metadata = from_json(document, DetectorMetadata, name)
    check_class_names(file, metadata.classes)
    network = {key: tensors.pop(key) for key in [*tensors] if key.startswith(NETWORK)}
    content = build_model(
        file, metadata.network, {key.removeprefix(NETWORK): tensor for key, tensor in network.items()}
    )
    regions = metadata.regions
    try:
        features = RegionFeatures(
            open_model(content, file, ranks), regions.layer, regions.context, regions.grid
        )
    except UserError as error:
        raise UserError(f"{file} does not describe its regions: {error}") from None
    rcnn = _rcnn(file, metadata, tensors, features.dimension)
    return DetectorParts(metadata, RegionExtractor(features, regions.proposals), rcnn)


def _rcnn(file: Path, metadata: DetectorMetadata, tensors: dict[str, Tensor], dimension: int) -> RCNN:
    """Raises UserError where the tensors are not those that the metadata describes."""
    num_classes = len(metadata.classes)
    outputs = num_classes + (metadata.scorer == "softmax")
    regressed = metadata.regressed
    expected = {
        "scorer.weights": (dimension, outputs),
        "scorer.biases": (outputs,),
        "regressors": (len(regressed), dimension, 4),
    }
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected or any(
        tensor.dtype != torch.float64 for tensor in tensors.values()
    ):
        raise UserError(f"{file} does not hold the detector that its metadata describes")
    numbers: dict[str, Array] = {name: tensor.numpy() for name, tensor in tensors.items()}
    if not all(np.isfinite(values).all() for values in numbers.values()) or not 0 < metadata.scale < np.inf:
        raise UserError(f"{file} holds weights that are not finite")
    labels_fit = len(metadata.pairs) == len(regressed) and [*regressed] == sorted({*regressed})
    if not labels_fit or not {*regressed} <= {*range(num_classes)}:
        raise UserError(f"{file} has regressors of other classes than its {num_classes}")
    linear = Linear(numbers["scorer.weights"], numbers["scorer.biases"])
    scorer: Scorer = SoftmaxScorer(linear) if metadata.scorer == "softmax" else linear
    return RCNN(num_classes, metadata.scale, scorer, dict(zip(regressed, numbers["regressors"], strict=True)))


def describe_detector(
    extractor: RegionExtractor,
    rcnn: RCNN,
    classes: tuple[str, ...],
    pairs: dict[int, int],
    provenance: dict[str, Any],
) -> DetectorMetadata:
    """The metadata of a detector. Raises UsageError for a scorer that a file cannot hold."""
    scorer_linear(rcnn.scorer)
    features = extractor.features
    return DetectorMetadata(
        format=FORMAT,
        network=features.classifier.metadata,
        regions=RegionsMetadata(
            layer=features.path, context=features.context, grid=features.grid, proposals=extractor.proposals
        ),
        classes=classes,
        scorer="softmax" if isinstance(rcnn.scorer, SoftmaxScorer) else "svm",
        scale=rcnn.scale,
        regressed=tuple(sorted(rcnn.regressors)),
        pairs=tuple(pairs[label] for label in sorted(rcnn.regressors)),
        provenance=provenance,
    )
