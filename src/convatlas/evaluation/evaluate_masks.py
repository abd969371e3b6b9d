"""`eval` of networks that label pixels: whole images, each by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from convatlas.classifier import Classifier
from convatlas.data import Dataset, Split
from convatlas.data.loading.batch import Batch
from convatlas.data.loading.loader import default_num_workers
from convatlas.data.loading.masked_eval_batches import MaskedEvalBatches
from convatlas.data.mask import MaskSource, RelabeledMasks
from convatlas.errors import UsageError, printable
from convatlas.evaluation.eval_data import EvalData, select_eval_data
from convatlas.evaluation.mask_cache import mask_cache
from convatlas.evaluation.mask_significance import paired_mask_comparison
from convatlas.evaluation.predict import BatchPredictions, merge_batches, predict_batches
from convatlas.evaluation.request import EnsembleMember, class_indices
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.segmentation.comparison import MaskComparison, object_scores
from convatlas.segmentation.ensemble import average_windows
from convatlas.segmentation.predict import LogitWindow, logit_windows
from convatlas.segmentation.results import results_document
from convatlas.segmentation.task import SEGMENTATION, MaskPredictions, mask_predictions


def evaluate_masks(
    members: Sequence[EnsembleMember],
    data: str | None,
    split: str | None,
    crops: str,
    subset: Path | None,
    ranks: Ranks,
) -> dict[str, Any]:
    """The document of `eval`: that of `segmentation.results`, with the data, the images that could not be
    read, those that were trained on, and the scores of the members. Of several, the probabilities are
    averaged. The ranks share the images, and each gets the document.

    Raises UsageError for members that cannot be averaged, for crops, and for data without masks or with
    classes that the network lacks.
    """
    if crops != "center":
        raise UsageError(
            f"networks that label pixels take whole images: leave out --crops {printable(crops)}"
        )
    _check_members(members)
    classifiers = [member.classifier for member in members]
    selected = select_eval_data(classifiers, data, split, subset)
    samples = _samples(selected, classifiers[0])
    name = printable(members[0].name) if len(members) == 1 else f"{len(members)} networks"
    cache = mask_cache(members, selected)
    cached, notes = ranks.run_on_main(cache.load)
    if cached is None:
        predictions = _predict(classifiers, samples, name, ranks)
        if selected.indices is not None:
            predictions = [_with_split_indices(part, selected.indices) for part in predictions]
        notes += ranks.run_on_main(partial(cache.store, predictions[-1]))
    else:
        predictions = [cached]
    *_, result = predictions
    scores = [SEGMENTATION.scores(part) for part in predictions[: len(members)]]
    document = results_document(result, classifiers[0].metadata.classes) | {
        "crops": "whole",
        "models": len(members),
        "data": selected.dataset.name,
        "split": selected.split,
        "subset": None if subset is None else str(subset),
        "members": [
            {
                "weights": member.name,
                "network": member.classifier.metadata.network.name,
                "cached": cached is not None,
            }
            | member_scores
            for member, member_scores in zip(members, scores, strict=True)
        ],
        "unreadable": [{"file": sample.file, "reason": sample.reason} for sample in result.unreadable],
        "trained_on": selected.trained_on_document(),
        "notes": [*selected.notes, *notes],
    }
    if len(members) > 1:
        best = max(range(len(members)), key=lambda i: (scores[i]["mean_iou"], -i))
        document["versus_best"] = {"member": best} | paired_mask_comparison(predictions[best], result)
    return document


def _check_members(members: Sequence[EnsembleMember]) -> None:
    """Raises UsageError for networks that see images in different ways, or are given twice."""
    for first, other in combinations(members, 2):
        names = f"{printable(first.name)} and {printable(other.name)}"
        if first.classifier.metadata.preprocessing != other.classifier.metadata.preprocessing:
            raise UsageError(
                f"{names} see images at different scales or in different tiles: only networks of one input "
                "can be averaged"
            )
        if first.classifier.weights_sha256 == other.classifier.weights_sha256:
            raise UsageError(f"{names} are the same network: name each once")


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


def _predict(
    classifiers: Sequence[Classifier], samples: Split, name: str, ranks: Ranks
) -> list[MaskPredictions]:
    """The predictions of each network, and then those of the average of several."""
    source = MaskedEvalBatches(samples, classifiers[0].metadata.preprocessing)
    steps = range(ranks.rank, source.num_batches, ranks.world_size)
    assert samples.masks is not None
    predict = partial(_predict_image, classifiers, samples.masks)
    workers = default_num_workers(samples, ranks)
    computed: list[BatchPredictions] = list(predict_batches(predict, source, steps, workers, name, ranks))
    batches = [batch for share in ranks.all_gather(computed) for batch in share]
    rows = merge_batches(batches, samples)
    return [
        mask_predictions(rows._replace(values=rows.values[:, number]))
        for number in range(rows.values.shape[1])
    ]


def _predict_image(classifiers: Sequence[Classifier], masks: MaskSource, batch: Batch) -> NDArray[np.float64]:
    """(1, predictions, ...): the rows of the batch's image (`mask_predictions`), one for each network and one
    for the average of several."""
    (image,), (target,), (index,) = batch.images, batch.targets, batch.indices.tolist()
    size = target.shape[0], target.shape[1]
    classes = classifiers[0].metadata.classes
    comparisons = [MaskComparison(target) for _ in classifiers]
    average = MaskComparison(target)
    networks = [_windows(classifier, image, size, classes) for classifier in classifiers]
    for windows in zip(*networks, strict=True):
        for comparison, window in zip(comparisons, windows, strict=True):
            comparison.add(window)
        if len(windows) > 1:
            average.add(average_windows(windows))
    if len(classifiers) > 1:
        comparisons.append(average)
    compared = [comparison.result() for comparison in comparisons]
    rows = np.stack([part.row() for part in compared])
    if masks.has_instances:
        mask = masks.mask(index)
        scores = [object_scores(part.mask, mask) for part in compared]
        rows = np.column_stack([rows, [(part.sum(), len(part)) for part in scores]])
    return rows[None]


def _windows(
    classifier: Classifier, image: Tensor, size: tuple[int, int], classes: Sequence[str]
) -> Iterator[LogitWindow]:
    """The network's logits, of `classes` in this order."""
    order = [classifier.metadata.classes.index(name) for name in classes]
    image = image.to(classifier.runtime.device)
    for window in logit_windows(classifier.logits, image, classifier.metadata.preprocessing, size):
        yield window if order == sorted(order) else window._replace(logits=window.logits[order])


def _with_split_indices(predictions: MaskPredictions, indices: np.ndarray[Any, Any]) -> MaskPredictions:
    unreadable = [replace(sample, index=int(indices[sample.index])) for sample in predictions.unreadable]
    return replace(predictions, indices=indices[predictions.indices], unreadable=unreadable)
