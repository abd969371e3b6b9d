"""`eval`: one classifier or several asked about a split, and what they say together, as all of them or as any of their subsets."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from convatlas.classifier import Classifier, load
from convatlas.data import open_dataset
from convatlas.errors import UsageError, UserError, printable, unknown_name
from convatlas.evaluation import image_list, metrics, prediction_cache
from convatlas.evaluation.ensemble import Average, average_logits
from convatlas.evaluation.protocols import get_protocol
from convatlas.evaluation.request import EnsembleMember, EvalRequest, EvalResult, make_request, run_request
from convatlas.evaluation.results import classification_scores, results_document
from convatlas.evaluation.significance import Correctness, paired_comparison

MAX_SUBSET_MEMBERS = 10  # members: 1,023 subsets
CHUNK = 2_000  # samples whose averages are held at once
Weights = Classifier | str | Path


def evaluate(
    weights: Weights | Sequence[Weights],
    data: str | None = None,
    split: str = "test",
    crops: str = "center",
    subset: str | Path | None = None,
    subsets: bool = False,
) -> dict[str, Any]:
    """The document of `eval`, accuracies and errors in percent. Several weights are an ensemble. What a run's folder or a file of weights
    answers is kept beside it and used again; what a Classifier answers is not. `data` defaults to what they were trained on, `subset` is
    a file that names some of the split's images, `subsets` adds the scores of every subset of the members.

    top1, top5 (None below five classes), loss (mean negative log-likelihood), n, crops, models; top1_interval (95 %, Wilson), ece
    (expected calibration error), reliability, per_class, confusion; unread (files that could not be read, not counted); data, split,
    subset, protocol; members, and for several against_best (the ensemble paired with its best member, as evaluation/significance.py has it);
    with `subsets` also subsets and by_size; notes.

    Raises UsageError for a split, protocol or image that does not exist, a network that is there twice, members with other classes than
    the first, or data with classes that a classifier lacks; UserError for what cannot be read.
    """
    members = _members([weights] if isinstance(weights, Classifier | str | Path) else list(weights))
    if subsets and len(members) > MAX_SUBSET_MEMBERS:
        raise UsageError(f"--subsets takes at most {MAX_SUBSET_MEMBERS} members, not {len(members)}: leave some out")
    protocols = [get_protocol(crops, member.classifier.metadata.provenance.get("crop")) for member in members]
    dataset = open_dataset(data or _trained_on(members))
    if split not in dataset.splits:
        raise unknown_name("split", split, dataset.splits)
    places = image_list.read_image_list(Path(subset), dataset.splits[split], f"{dataset.name}, {split}") if subset is not None else None
    asked = [make_request(member, protocol, dataset, split, places) for member, protocol in zip(members, protocols, strict=True)]
    for one, other in combinations(asked, 2):
        if one.metadata.model == other.metadata.model:
            raise UsageError(f"{printable(one.member.name)} and {printable(other.member.name)} are the same network: name each once")
    found = _results(asked, [run_request(one) for one in asked], subsets)
    return found | {"data": dataset.name, "split": split, "subset": None if subset is None else str(subset)}


def _members(weights: Sequence[Weights]) -> list[EnsembleMember]:
    if not weights:
        raise UsageError("eval needs at least one run's folder or model.safetensors")
    members = [
        EnsembleMember(f"#{number}", one, None)
        if isinstance(one, Classifier)
        else EnsembleMember(str(one), load(one), prediction_cache.cache_dir_for(Path(one)))
        for number, one in enumerate(weights, 1)
    ]
    classes = set(members[0].classifier.metadata.classes)
    for member in members[1:]:
        odd = sorted(classes ^ set(member.classifier.metadata.classes))
        if odd:
            what = "the first lacks" if odd[0] not in classes else "only the first has"
            raise UsageError(f"{printable(member.name)} has other classes than the first of the ensemble: {what} {printable(odd[0])!r}")
    return members


def _trained_on(members: Sequence[EnsembleMember]) -> str:
    names = {member.classifier.training_data for member in members}
    if len(names) > 1:
        one, other, *_ = sorted(names)
        raise UsageError(f"these were trained on different data, {printable(one)} and {printable(other)}: say which with --data")
    return names.pop()


def _results(asked: Sequence[EvalRequest], said: Sequence[EvalResult], subsets: bool) -> dict[str, Any]:
    shared = said[0].predictions.indices
    for one in said[1:]:
        shared = np.intersect1d(shared, one.predictions.indices, assume_unique=True)
    if not len(shared):
        raise UserError("there is no image that all of these can read")
    protocol, classes = asked[0].protocol, asked[0].metadata.classes
    logits = [_columns(one, answer, classes, shared) for one, answer in zip(asked, said, strict=True)]
    labels = said[0].predictions.labels[np.isin(said[0].predictions.indices, shared)]
    together, alone = ensemble_logits(logits, protocol.ensemble), [classification_scores(one, labels) for one in logits]
    unread = {(one.index, one.file, one.reason) for answer in said for one in answer.predictions.unreadable}
    found = results_document(together, labels, classes, protocol.name, len(asked)) | {
        "protocol": {name: getattr(protocol, name) for name in ("label", "source", "average", "ensemble", "unstated")},
        "members": [_member(*one) for one in zip(asked, said, alone, strict=True)],
        "unread": [{"file": file, "reason": why} for _, file, why in sorted(unread)],
        "notes": _notes(asked, said),
    }
    if len(asked) > 1:
        best = max(range(len(asked)), key=lambda i: (alone[i]["top1"], -i))
        marks = [Correctness(asked[best].metadata, shared, metrics.correct(one, labels)) for one in (logits[best], together)]
        found["against_best"] = {"member": best} | paired_comparison(*marks)
    if subsets:
        found["subsets"] = score_subsets(logits, labels, protocol.ensemble)
        found["by_size"] = _by_size(found["subsets"])
    return found


def _columns(asked: EvalRequest, said: EvalResult, classes: Sequence[str], indices: metrics.Labels) -> metrics.Logits:
    """The member's answers about the samples at `indices`, its columns in the order of `classes`."""
    rows = said.predictions.logits[np.isin(said.predictions.indices, indices)]
    own = asked.metadata.classes
    if own == tuple(classes):
        return rows
    place = {name: i for i, name in enumerate(own)}
    return rows[:, [place[name] for name in classes]]


def _member(asked: EvalRequest, said: EvalResult, alone: dict[str, Any]) -> dict[str, Any]:
    views = msgspec.to_builtins(asked.protocol.views)
    card = asked.metadata
    return {
        "weights": asked.member.name,
        "network": asked.member.classifier.metadata.network.name,
        "run": card.run,
        "views": views,
        "windows": asked.views_per_image,
        "precision": card.precision,
        "reused": said.cached,
    } | alone


def _notes(asked: Sequence[EvalRequest], said: Sequence[EvalResult]) -> list[str]:
    notes = [note for one in said for note in one.notes]
    if asked[0].protocol.views is not None and not asked[0].hflip_safe:
        notes.append(f"no mirrored crops: a mirrored image of {asked[0].metadata.data} can be of another class, or of none")
    return notes


def ensemble_logits(logits: Sequence[metrics.Logits], average: Average) -> metrics.Logits:
    """What members say together; one alone is itself, to the bit. Some samples at a time: in float64 all would take much memory."""
    return np.concatenate([average_logits(some, average) for some in _chunks(logits)])


def _chunks(logits: Sequence[metrics.Logits]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(logits[0]), CHUNK):
        yield np.stack([one[start : start + CHUNK] for one in logits], axis=1)


def score_subsets(logits: Sequence[metrics.Logits], labels: metrics.Labels, average: Average) -> list[dict[str, Any]]:
    """The scores of every subset of the members, from the smallest: `members` are their places in the command."""
    found = []
    for size in range(1, len(logits) + 1):
        for some in combinations(range(len(logits)), size):
            together = ensemble_logits([logits[i] for i in some], average)
            right = int(metrics.correct(together, labels).sum())
            found.append(
                {"members": list(some)} | classification_scores(together, labels) | {"top1_interval": metrics.interval(right, len(labels))}
            )
    return found


def _by_size(subsets: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    sizes: dict[int, list[float]] = {}
    for one in subsets:
        sizes.setdefault(len(one["members"]), []).append(one["top1"])
    return [
        {"size": size, "subsets": len(top1), "top1_mean": sum(top1) / len(top1), "top1_lowest": min(top1), "top1_highest": max(top1)}
        for size, top1 in sizes.items()
    ]
