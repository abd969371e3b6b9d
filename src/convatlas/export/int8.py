"""A trained network in 8 bits: calibrated on its training images, checked on its validation images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convatlas import models
from convatlas.classifier import Classifier
from convatlas.data import Dataset, open_dataset
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.loader import default_num_workers, iterate_batches
from convatlas.data.loading.masked_eval_batches import MaskedEvalBatches
from convatlas.data.loading.masked_samples import MaskedSamples
from convatlas.data.mask import RelabeledMasks
from convatlas.data.transforms.preprocessing import UnreadableSample
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.errors import UsageError, UserError, printable, unknown_name
from convatlas.evaluation import metrics
from convatlas.evaluation.predict import predict_split
from convatlas.evaluation.protocols import get_protocol
from convatlas.evaluation.request import EnsembleMember, class_indices, make_request
from convatlas.export.formats import to_int8
from convatlas.export.quantization import calibration_indices
from convatlas.inference.graph import InferFn
from convatlas.segmentation.comparison import compare_with_target
from convatlas.segmentation.metrics import mean_iou
from convatlas.segmentation.predict import logit_windows
from convatlas.segmentation.task import class_target
from convatlas.segmentation.tiling import Tiling

BATCH_SIZE = 32
PROBE_IMAGES = 8


@dataclass(frozen=True)
class Int8Report:
    """The `score`, "top1" or "mean_iou", in percent on `n` validation images, in fp32 and in int8; the number
    of calibration images."""

    score: str
    before: float
    after: float
    drop: float
    n: int
    calibrated_on: int


class _Check(NamedTuple):
    """Training images to calibrate on, uint8, and an engine's score, in percent, on `n` validation images."""

    images: Tensor
    score: Callable[[InferFn], float]
    n: int


def classifier_to_int8(
    classifier: Classifier,
    path: Path,
    data: str | None = None,
    max_drop: float = 0.5,
    name: str = "classifier",
) -> Int8Report:
    """Quantise a classifier, or a network that labels pixels, and write it to the folder `path`. `data`
    defaults to its training data.

    Raises UsageError for data without train or val images; UserError when the score, top-1 or mean IU, falls
    by more than `max_drop` points.
    """
    dataset = open_dataset(data or classifier.training_data)
    for split in ("train", "val"):
        if split not in dataset.splits:
            raise unknown_name("split", split, dataset.splits)
    network = classifier.metadata.network
    if models.get_entry(network.name, network.edition).task == "segmentation":
        score, check = "mean_iou", _check_of_masks(classifier, dataset)
    else:
        score, check = "top1", _check_of_classes(classifier, dataset, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    example = check.images[:PROBE_IMAGES] if score == "top1" else check.images[:1]
    export = to_int8(classifier, example, path, [check.images], check.score, max_drop, score)
    return Int8Report(score, export.before, export.after, export.drop, check.n, len(check.images))


def _check_of_classes(classifier: Classifier, dataset: Dataset, name: str) -> _Check:
    member = EnsembleMember(name, classifier, None)
    request = make_request(member, get_protocol("center", None), dataset, "val", None)
    batches = EvalBatches(request.split, request.preprocessing, BATCH_SIZE)

    def top1(infer: InferFn) -> float:
        workers = default_num_workers(request.split)
        predictions = predict_split(infer, batches, torch.device("cpu"), workers)
        correct = metrics.correct(predictions.logits, request.class_indices[predictions.labels])
        return metrics.percent(int(correct.sum()), len(predictions.labels))

    train = dataset.splits["train"].images
    images, unreadable = request.preprocessing.load_batch(train, calibration_indices(len(train)))
    return _Check(_check_readable(images, unreadable), top1, len(request.split))


def _check_of_masks(classifier: Classifier, dataset: Dataset) -> _Check:
    """Of the tiles that an exported network takes."""
    preprocessing = classifier.metadata.preprocessing
    train, val = dataset.splits["train"], dataset.splits["val"]
    if train.masks is None or val.masks is None:
        raise UsageError(
            f"{printable(dataset.name)} has no masks: expected folder:PATH with PATH/train/masks"
        )
    val = replace(val, masks=RelabeledMasks(val.masks, class_indices(dataset, classifier)))
    margin = preprocessing.margin
    tiling = Tiling(preprocessing.input_size, margin, valid=margin > 0, stride=preprocessing.stride)

    def mean_iu(infer: InferFn) -> float:
        source = MaskedEvalBatches(val, preprocessing)
        num_classes = len(classifier.metadata.classes)
        confusion = np.zeros((num_classes, num_classes), np.int64)
        for _, batch in iterate_batches(source, 0, source.steps, default_num_workers(val)):
            _check_readable(batch.images, batch.unreadable)
            (image,), (target,) = batch.images, batch.targets
            windows = logit_windows(infer, image, preprocessing, (target.shape[0], target.shape[1]), tiling)
            confusion += compare_with_target(windows, target).confusion
        return float(mean_iou(confusion))

    samples = MaskedSamples(train, preprocessing, RandomTile(scale=preprocessing.scale), class_target)
    tiles = samples.load_plain(calibration_indices(len(train)))
    return _Check(_check_readable(tiles.images, tiles.unreadable), mean_iu, len(val))


def _check_readable(images: Tensor, unreadable: list[UnreadableSample]) -> Tensor:
    """The images. Raises UserError where some cannot be read."""
    if count := len({sample.index for sample in unreadable}):
        raise UserError(
            f"{count} of {len(images)} images for int8 cannot be read: look at them with convatlas data check"
        )
    return images
