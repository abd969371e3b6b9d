"""`eval`: evaluate a classifier, or several as an ensemble with all of its subsets."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from convatlas import models
from convatlas.boxes import Detector
from convatlas.boxes.detector_file import holds_detector
from convatlas.classifier import Classifier, load
from convatlas.errors import UsageError, UserError, printable, wrong_type
from convatlas.evaluation import metrics, prediction_cache
from convatlas.evaluation.ensemble import Average, ensemble_logits
from convatlas.evaluation.eval_data import select_eval_data
from convatlas.evaluation.evaluate_boxes import evaluate_boxes
from convatlas.evaluation.evaluate_masks import evaluate_masks
from convatlas.evaluation.metrics import SampleScores, score_samples
from convatlas.evaluation.predictions import Predictions
from convatlas.evaluation.protocols import get_protocol
from convatlas.evaluation.request import EnsembleMember, EvalRequest, make_request, run_request
from convatlas.evaluation.results import classification_scores, results_document, top1_interval
from convatlas.evaluation.significance import compare_matched_pairs
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.runtime.distributed.rendezvous import init_ranks

MAX_SUBSET_MEMBERS = 10  # 1,023 subsets
Network = Classifier | str | Path
Weights = Network | Detector


def evaluate(
    weights: Weights | Sequence[Weights],
    data: str | None = None,
    split: str | None = None,
    crops: str = "center",
    subset: str | Path | None = None,
    subsets: bool = False,
) -> dict[str, Any]:
    """The document of `eval`, accuracies and errors in percent.

    weights: a run's folder, a file of weights, a Classifier or a Detector; several classifiers are an
        ensemble. Predictions of folders and files are cached beside them, those of a Classifier are not.
    data: by default the data that they were trained on.
    split: by default the test split; of another set without splits, every image, as with "all"
        (evaluation/eval_data.py).
    crops: the name of a protocol (evaluation/protocols.py).
    subset: a text file with the names of some of the split's images.
    subsets: whether to add the scores of every subset of the members.

    Networks that label pixels are evaluated on whole images, one at a time (evaluation/evaluate_masks.py),
    detectors on images with boxes (evaluation/evaluate_boxes.py).

    The document has top1, top5 (None below five classes), loss (mean negative log-likelihood), n, crops,
    models; top1_interval (95 %, Wilson), ece (expected calibration error), reliability, per_class, confusion;
    unreadable (files that could not be read and are not counted); trained_on (images of the split with the
    content of a training image: n, left_out and their files); data, split, subset, protocol; members, and for
    several versus_best (the ensemble paired with its best member, see evaluation/significance.py); with
    `subsets` also subsets and by_size; notes.

    Raises UsageError for a split, protocol or image that does not exist, a network that is given twice,
    members whose classes differ from the first's, or data with classes that a classifier lacks; UserError for
    files that cannot be read.
    """
    sources: Any = list(weights) if isinstance(weights, list | tuple) else [weights]
    with init_ranks() as ranks:
        return _evaluate(sources, data, split, crops, subset, subsets, ranks)


def _evaluate(
    weights: Sequence[Weights],
    data: str | None,
    split: str | None,
    crops: str,
    subset: str | Path | None,
    subsets: bool,
    ranks: Ranks,
) -> dict[str, Any]:
    if any(isinstance(source, Detector) or _holds_detector(source) for source in weights):
        if subset is not None or subsets:
            option = "--subset" if subset is not None else "--subsets"
            raise UsageError(
                f"detectors are evaluated on all images of a split, by themselves: leave out {option}"
            )
        return evaluate_boxes(weights, data, split, crops, ranks)
    members = _load_members([source for source in weights if not isinstance(source, Detector)], ranks)
    if _labels_pixels(members):
        if subsets:
            raise UsageError("--subsets is for networks that classify images: leave it out")
        return evaluate_masks(members, data, split, crops, None if subset is None else Path(subset), ranks)
    if subsets and len(members) > MAX_SUBSET_MEMBERS:
        raise UsageError(
            f"--subsets takes at most {MAX_SUBSET_MEMBERS} members, not {len(members)}: leave some out"
        )
    classifiers = [member.classifier for member in members]
    protocols = [
        get_protocol(crops, classifier.metadata.provenance.get("crop")) for classifier in classifiers
    ]
    selected = select_eval_data(classifiers, data, split, None if subset is None else Path(subset))
    dataset = selected.dataset
    requests = [
        make_request(member, protocol, dataset, selected.split, selected.indices)
        for member, protocol in zip(members, protocols, strict=True)
    ]
    _check_networks_differ(requests)
    predictions: list[Predictions] = []
    cached: list[bool] = []
    notes = list(selected.notes)
    for request in requests:
        member_predictions, is_cached, member_notes = run_request(request, ranks)
        predictions.append(member_predictions)
        cached.append(is_cached)
        notes += member_notes
    if requests[0].protocol.views is not None and not dataset.hflip_safe:
        notes.append(
            f"no mirrored crops: a mirrored image of {dataset.name} can be of another class, or of none"
        )
    document = _document(requests, predictions, cached, notes, subsets)
    return document | {
        "data": dataset.name,
        "split": selected.split,
        "subset": None if subset is None else str(subset),
        "trained_on": selected.trained_on_document(),
    }


def _holds_detector(source: Weights) -> bool:
    return isinstance(source, str | Path) and holds_detector(source)


def _labels_pixels(members: Sequence[EnsembleMember]) -> bool:
    """Raises UsageError where some of the networks label pixels and others classify images."""
    networks = [member.classifier.metadata.network for member in members]
    labels_pixels = [models.get_entry(n.name, n.edition).task == "segmentation" for n in networks]
    if len(set(labels_pixels)) > 1:
        segmenter, classifier = (printable(members[labels_pixels.index(task)].name) for task in (True, False))
        raise UsageError(
            f"{segmenter} labels pixels and {classifier} classifies images: evaluate each by itself"
        )
    return labels_pixels[0]


def _load_members(weights: Sequence[Network], ranks: Ranks) -> list[EnsembleMember]:
    if not weights:
        raise UsageError("eval needs at least one run's folder or model.safetensors")
    for source in weights:
        if not isinstance(source, Classifier | str | Path):
            raise wrong_type(
                "what evaluate takes", source, "a run's folder, a model.safetensors or a Classifier"
            )
    members = [
        EnsembleMember(f"#{number}", source, None)
        if isinstance(source, Classifier)
        else EnsembleMember(str(source), load(source, ranks), prediction_cache.cache_dir_for(Path(source)))
        for number, source in enumerate(weights, 1)
    ]
    classes = set(members[0].classifier.metadata.classes)
    for member in members[1:]:
        differing = sorted(classes ^ set(member.classifier.metadata.classes))
        if differing:
            difference = "the first lacks" if differing[0] not in classes else "only the first has"
            raise UsageError(
                f"{printable(member.name)} has other classes than the first of the ensemble: "
                f"{difference} '{printable(differing[0])}'"
            )
    return members


def _check_networks_differ(requests: Sequence[EvalRequest]) -> None:
    for first, second in combinations(requests, 2):
        if first.metadata.model == second.metadata.model:
            names = f"{printable(first.member.name)} and {printable(second.member.name)}"
            raise UsageError(f"{names} are the same network: name each once")


def _document(
    requests: Sequence[EvalRequest],
    predictions: Sequence[Predictions],
    cached: Sequence[bool],
    notes: list[str],
    subsets: bool,
) -> dict[str, Any]:
    indices = predictions[0].indices
    for member_predictions in predictions[1:]:
        indices = np.intersect1d(indices, member_predictions.indices, assume_unique=True)
    if not len(indices):
        raise UserError("there is no image that all of these can read")
    protocol = requests[0].protocol
    classes = requests[0].metadata.classes
    labels = predictions[0].labels[np.isin(predictions[0].indices, indices)]
    logits = [
        _aligned_logits(member_predictions, indices, request.metadata.classes, classes)
        for request, member_predictions in zip(requests, predictions, strict=True)
    ]
    num_members = len(requests)
    all_members = tuple(range(num_members))
    samples: dict[tuple[int, ...], SampleScores] = {}  # by the members that are averaged
    for i in all_members:
        samples[(i,)] = score_samples(logits[i], labels)
    if num_members > 1:
        samples[all_members] = score_samples(ensemble_logits(logits, protocol.ensemble), labels)
    scores = [classification_scores(samples[(i,)]) for i in all_members]
    unreadable = {
        (sample.index, sample.file, sample.reason)
        for member_predictions in predictions
        for sample in member_predictions.unreadable
    }
    document = results_document(samples[all_members], classes, protocol.name, num_members) | {
        "protocol": {
            name: getattr(protocol, name) for name in ("label", "source", "average", "ensemble", "unstated")
        },
        "members": [_member_document(requests[i], cached[i]) | scores[i] for i in all_members],
        "unreadable": [{"file": file, "reason": reason} for _, file, reason in sorted(unreadable)],
        "notes": notes,
    }
    if num_members > 1:
        best = max(all_members, key=lambda i: (scores[i]["top1"], -i))
        pairs = compare_matched_pairs(samples[(best,)].correct(), samples[all_members].correct())
        document["versus_best"] = {"member": best} | pairs
    if subsets:
        document["subsets"] = score_subsets(logits, labels, protocol.ensemble, samples)
        document["by_size"] = _summarize_by_size(document["subsets"])
    return document


def _aligned_logits(
    predictions: Predictions, indices: metrics.Labels, member_classes: Sequence[str], classes: Sequence[str]
) -> metrics.Logits:
    """A member's logits on the samples at `indices`, its columns in the order of `classes`."""
    logits = predictions.logits[np.isin(predictions.indices, indices)]
    if tuple(member_classes) == tuple(classes):
        return logits
    column = {name: i for i, name in enumerate(member_classes)}
    return logits[:, [column[name] for name in classes]]


def _member_document(request: EvalRequest, cached: bool) -> dict[str, Any]:
    return {
        "weights": request.member.name,
        "network": request.member.classifier.metadata.network.name,
        "run": request.metadata.run,
        "multi_crop": msgspec.to_builtins(request.protocol.views),
        "views": request.views_per_image,
        "precision": request.metadata.precision,
        "cached": cached,
    }


def score_subsets(
    logits: Sequence[metrics.Logits],
    labels: metrics.Labels,
    average: Average,
    known: dict[tuple[int, ...], SampleScores],
) -> list[dict[str, Any]]:
    """The scores of every subset of the members, the smallest first; `members` are their indices.

    `known` are the scores of those subsets that were computed before.
    """
    subset_scores = []
    for size in range(1, len(logits) + 1):
        for members in combinations(range(len(logits)), size):
            if members in known:
                samples = known[members]
            else:
                samples = score_samples(ensemble_logits([logits[i] for i in members], average), labels)
            interval = top1_interval(samples)
            scores = classification_scores(samples)
            subset_scores.append({"members": list(members)} | scores | {"top1_interval": interval})
    return subset_scores


def _summarize_by_size(subset_scores: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    top1_by_size: dict[int, list[float]] = {}
    for scores in subset_scores:
        top1_by_size.setdefault(len(scores["members"]), []).append(scores["top1"])
    return [
        {
            "size": size,
            "subsets": len(top1),
            "top1_mean": sum(top1) / len(top1),
            "top1_lowest": min(top1),
            "top1_highest": max(top1),
        }
        for size, top1 in top1_by_size.items()
    ]
