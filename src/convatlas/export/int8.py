"""A classifier in 8 bits: calibrated on its training images, checked on its validation images."""

from dataclasses import dataclass
from pathlib import Path

import torch

from convatlas import models
from convatlas.classifier import Classifier
from convatlas.data import open_dataset
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.loader import default_num_workers
from convatlas.errors import UsageError, unknown_name
from convatlas.evaluation import metrics
from convatlas.evaluation.predict import predict_split
from convatlas.evaluation.protocols import get_protocol
from convatlas.evaluation.request import EnsembleMember, make_request
from convatlas.export import quantization
from convatlas.export.formats import to_int8
from convatlas.inference.graph import InferFn

BATCH_SIZE = 32
PROBE_IMAGES = 8


@dataclass(frozen=True)
class Int8Report:
    """Top-1 in percent on `n` validation images, in fp32 and in int8; the calibration images."""

    before: float
    after: float
    drop: float
    n: int
    calibrated_on: int


def classifier_to_int8(
    classifier: Classifier,
    path: Path,
    data: str | None = None,
    max_drop: float = 0.5,
    name: str = "classifier",
) -> Int8Report:
    """Quantise a classifier and write it to the folder `path`. `data` defaults to its training data.

    Raises UsageError for data without train or val images; UserError when top-1 falls by more than `max_drop`
    points.
    """
    network = classifier.metadata.network
    if models.get_entry(network.name, network.edition).task == "segmentation":
        raise UsageError(
            f"{name} is a {network.name}, which labels pixels, and int8 is checked by top-1: export it to "
            "openvino or onnx"
        )
    dataset = open_dataset(data or classifier.training_data)
    for split in ("train", "val"):
        if split not in dataset.splits:
            raise unknown_name("split", split, dataset.splits)
    member = EnsembleMember(name, classifier, None)
    request = make_request(member, get_protocol("center", None), dataset, "val", None)
    batches = EvalBatches(request.split, request.preprocessing, BATCH_SIZE)

    def accuracy(infer: InferFn) -> float:
        workers = default_num_workers(request.split)
        predictions = predict_split(infer, batches, torch.device("cpu"), workers)
        correct = metrics.correct(predictions.logits, request.class_indices[predictions.labels])
        return metrics.percent(int(correct.sum()), len(predictions.labels))

    path.parent.mkdir(parents=True, exist_ok=True)
    images = quantization.calibration_images(dataset.splits["train"].images, request.preprocessing)
    export = to_int8(classifier, images[:PROBE_IMAGES], path, [images], accuracy, max_drop)
    return Int8Report(export.before, export.after, export.drop, len(request.split), len(images))
