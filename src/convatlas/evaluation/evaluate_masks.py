"""`eval` of a network that labels pixels: whole images, each by itself."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.classifier import Classifier
from convatlas.data import Dataset, Split
from convatlas.data.loading.batch import Batch
from convatlas.data.loading.loader import default_num_workers
from convatlas.data.loading.masked_eval_batches import MaskedEvalBatches
from convatlas.data.mask import MaskSource, RelabeledMasks
from convatlas.errors import UsageError, printable
from convatlas.evaluation.eval_data import EvalData, select_eval_data
from convatlas.evaluation.predict import BatchPredictions, merge_batches, predict_batches
from convatlas.evaluation.request import EnsembleMember, class_indices
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.segmentation.comparison import compare_with_target, object_scores
from convatlas.segmentation.predict import logit_windows
from convatlas.segmentation.results import results_document
from convatlas.segmentation.task import MaskPredictions, mask_predictions


def evaluate_masks(
    members: Sequence[EnsembleMember],
    data: str | None,
    split: str | None,
    crops: str,
    subset: Path | None,
    ranks: Ranks,
) -> dict[str, Any]:
    """The document of `eval`: that of `segmentation.results`, with the data, the images that could not be
    read, and those that were trained on. The ranks share the images, and each gets the document.

    Raises UsageError for an ensemble, for crops, and for data without masks or with classes that the network
    lacks.
    """
    if len(members) > 1:
        raise UsageError("eval averages networks that classify images: give one network that labels pixels")
    if crops != "center":
        raise UsageError(
            f"networks that label pixels take whole images: leave out --crops {printable(crops)}"
        )
    (member,) = members
    classifier = member.classifier
    selected = select_eval_data([classifier], data, split, subset)
    samples = _samples(selected, classifier)
    predictions = _predict(classifier, samples, printable(member.name), ranks)
    if selected.indices is not None:
        predictions = _with_split_indices(predictions, selected.indices)
    network = classifier.metadata.network.name
    return results_document(predictions, classifier.metadata.classes) | {
        "crops": "whole",
        "models": 1,
        "data": selected.dataset.name,
        "split": selected.split,
        "subset": None if subset is None else str(subset),
        "members": [{"weights": member.name, "network": network}],
        "unreadable": [{"file": sample.file, "reason": sample.reason} for sample in predictions.unreadable],
        "trained_on": selected.trained_on_document(),
        "notes": list(selected.notes),
    }


def _samples(selected: EvalData, classifier: Classifier) -> Split:
    """The samples, with masks of the network's classes."""
    dataset: Dataset = selected.dataset
    split = dataset.splits[selected.split]
    if split.masks is None:
        raise UsageError(
            f"{printable(dataset.name)} has no masks: expected folder:PATH with PATH/test/images and "
            "PATH/test/masks"
        )
    split = replace(split, masks=RelabeledMasks(split.masks, class_indices(dataset, classifier)))
    return split if selected.indices is None else split.subset(selected.indices)


def _predict(classifier: Classifier, samples: Split, name: str, ranks: Ranks) -> MaskPredictions:
    preprocessing = classifier.metadata.preprocessing
    source = MaskedEvalBatches(samples, preprocessing)
    steps = range(ranks.rank, source.num_batches, ranks.world_size)
    assert samples.masks is not None
    predict = partial(_predict_image, classifier, samples.masks)
    workers = default_num_workers(samples, ranks)
    computed: list[BatchPredictions] = list(predict_batches(predict, source, steps, workers, name, ranks))
    batches = [batch for share in ranks.all_gather(computed) for batch in share]
    return mask_predictions(merge_batches(batches, samples))


def _predict_image(classifier: Classifier, masks: MaskSource, batch: Batch) -> NDArray[np.float64]:
    """The row of the batch's image (`mask_predictions`)."""
    (image,), (target,), (index,) = batch.images, batch.targets, batch.indices.tolist()
    preprocessing, device = classifier.metadata.preprocessing, classifier.runtime.device
    size = target.shape[0], target.shape[1]
    windows = logit_windows(classifier.logits, image.to(device), preprocessing, size)
    compared = compare_with_target(windows, target)
    row = compared.row()
    if masks.has_instances:
        scores = object_scores(compared.mask, masks.mask(index))
        row = np.append(row, (scores.sum(), len(scores)))
    return row[None]


def _with_split_indices(predictions: MaskPredictions, indices: np.ndarray[Any, Any]) -> MaskPredictions:
    unreadable = [replace(sample, index=int(indices[sample.index])) for sample in predictions.unreadable]
    return replace(predictions, indices=indices[predictions.indices], unreadable=unreadable)
