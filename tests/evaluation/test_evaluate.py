"""`evaluate`: a classifier or an ensemble, its subsets, dense evaluation, and requests that are refused."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from helpers.ensemble_members import (
    CLASSES,
    NUM_TEST_IMAGES,
    forbid_evaluation,
    make_classifier,
    make_photos,
    make_run,
    permute_classes,
)
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import log_loss, top_k_accuracy_score

import convatlas as ca
from convatlas import models
from convatlas.classifier import Classifier
from convatlas.data.sources.class_names import imagenet_class_names
from convatlas.data.transforms.preprocessing import center_crop_preprocessing
from convatlas.data.transforms.random_crop import ScaleJitter
from convatlas.errors import UsageError
from convatlas.evaluation.predictions import Predictions, read_predictions
from convatlas.evaluation.request import class_indices
from convatlas.models.fully_convolutional import FullyConvolutional
from convatlas.recipes import Epochs

CROPS = ("center", "10", "12", "144", "dense", "multiscale")
SCORES = ("top1", "top5", "loss", "n")


def without_origin(document: dict[str, Any]) -> dict[str, Any]:
    """The document as JSON, without the members' paths and whether they were cached."""
    copy: dict[str, Any] = json.loads(msgspec.json.encode(document))
    for member in copy["members"]:
        del member["cached"], member["weights"]
    return copy


def cached_predictions(run: Path) -> Predictions:
    (file,) = (run / "predictions").iterdir()
    return read_predictions(file)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    return probabilities


@pytest.mark.parametrize("crops", CROPS)
def test_an_ensemble_of_one_is_the_model(crops: str, runs: list[Path]) -> None:
    single = ca.evaluate(ca.load(runs[0]), crops=crops)
    ensemble = ca.evaluate([runs[0]], crops=crops)
    assert without_origin(single) == without_origin(ensemble)
    assert single["models"] == 1
    assert single["crops"] == crops
    assert single["n"] == NUM_TEST_IMAGES
    assert {key: single[key] for key in SCORES} == {key: single["members"][0][key] for key in SCORES}
    predictions = cached_predictions(runs[0])
    assert predictions.logits.shape == (NUM_TEST_IMAGES, 6)
    accuracy = np.mean(predictions.logits.argmax(1) == predictions.labels)
    assert 100 * accuracy == pytest.approx(single["top1"])


def test_members_are_averaged_by_their_probabilities(runs: list[Path]) -> None:
    document = ca.evaluate(runs, crops="10")
    predictions = [cached_predictions(run) for run in runs]
    labels = predictions[0].labels
    mean = np.mean([softmax(member.logits) for member in predictions], axis=0)
    assert document["models"] == 4
    assert document["top1"] == pytest.approx(100 * top_k_accuracy_score(labels, mean, k=1, labels=range(6)))
    assert document["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, mean, k=5, labels=range(6)))
    assert document["loss"] == pytest.approx(log_loss(labels, mean, labels=range(6)), rel=1e-5)


def test_the_ensemble_is_paired_with_its_best_member(runs: list[Path]) -> None:
    document = ca.evaluate(runs)
    predictions = [cached_predictions(run) for run in runs]
    labels = predictions[0].labels
    member_correct = [member.logits.argmax(1) == labels for member in predictions]
    top1 = [member["top1"] for member in document["members"]]
    assert top1 == pytest.approx([100 * np.mean(correct) for correct in member_correct])
    assert len(set(top1)) > 1
    best = int(np.argmax(top1))
    pairs = document["versus_best"]
    assert pairs["member"] == best
    assert pairs["n"] == NUM_TEST_IMAGES
    correct = np.mean([softmax(member.logits) for member in predictions], axis=0).argmax(1) == labels
    assert pairs["only_second"] == int((correct & ~member_correct[best]).sum())
    assert pairs["only_first"] == int((member_correct[best] & ~correct).sum())


def test_every_subset_has_the_scores_of_its_own_evaluation(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = ca.evaluate(runs, subsets=True)
    members = [tuple(subset["members"]) for subset in document["subsets"]]
    assert members == [subset for size in (1, 2, 3, 4) for subset in itertools.combinations(range(4), size)]
    forbid_evaluation(monkeypatch)
    for subset in document["subsets"]:
        single = ca.evaluate([runs[i] for i in subset["members"]])
        keys = (*SCORES, "top1_interval")
        scores = {key: subset[key] for key in subset if key != "members"}
        assert {key: single[key] for key in keys} == scores
    for row in document["by_size"]:
        top1 = [subset["top1"] for subset in document["subsets"] if len(subset["members"]) == row["size"]]
        assert (row["subsets"], row["top1_lowest"], row["top1_highest"]) == (len(top1), min(top1), max(top1))
        assert row["top1_mean"] == pytest.approx(np.mean(top1))


def test_members_with_their_classes_in_another_order_agree(photos: str) -> None:
    classifier = make_classifier(0, data=photos)
    permuted = permute_classes(classifier, (3, 5, 0, 1, 4, 2))
    single = ca.evaluate(classifier)
    ensemble = ca.evaluate([classifier, permuted])
    permuted_first = ca.evaluate([permuted, classifier])
    for key in ("top1", "top5", "n", "confusion", "per_class"):
        assert ensemble[key] == single[key]
    assert ensemble["loss"] == pytest.approx(single["loss"], rel=1e-5)
    assert [row["name"] for row in permuted_first["per_class"]] == list(permuted.metadata.classes)
    assert {row["name"]: row["top1"] for row in permuted_first["per_class"]} == {
        row["name"]: row["top1"] for row in single["per_class"]
    }


def test_the_same_weights_in_another_edition_are_another_network(photos: str, tmp_path: Path) -> None:
    classifier = make_classifier(0, "resnet50", data=photos)
    before = ca.evaluate(make_run(tmp_path / "paper", classifier))
    arguments = classifier.metadata.network.arguments
    network = models.Architecture("resnet50", "torchvision", arguments)
    classifier.metadata = classifier.metadata.replace(network=network)
    after = ca.evaluate(make_run(tmp_path / "torchvision", classifier))
    assert after["loss"] != before["loss"]


# Dense evaluation


def dense_probabilities(
    classifier: Classifier, file: Path, scales: tuple[int, ...], average: str
) -> NDArray[np.float64]:
    """The average over an image and its mirror image, with its shorter side resized to each scale, of the
    mean class scores."""
    photo = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None]
    height, width = photo.shape[2:]
    assert isinstance(classifier.model, models.Network)
    network = FullyConvolutional(classifier.model, (32, 32))
    mean = classifier.normalizer.mean.mean((1, 2))[:, None, None]
    rows = []
    for scale in scales:
        size = tuple(max(scale, int(side * scale / min(height, width))) for side in (height, width))
        resized = F.interpolate(photo, size, mode="bilinear", antialias=True)
        for image in (resized, resized.flip(3)):
            normalized = (image / 255 - mean) / classifier.normalizer.std
            rows.append(network(normalized).mean((2, 3))[0])
    logits = torch.stack(rows).double().numpy()
    probabilities: NDArray[np.float64] = (
        softmax(logits).mean(0) if average == "probabilities" else softmax(logits.mean(0))
    )
    return probabilities


@pytest.mark.parametrize(
    ("crops", "scales", "average"),
    [("dense", (37,), "probabilities"), ("multiscale", (32, 37, 55, 69, 91), "scores")],
)
def test_dense_evaluation_is_that_of_vggs_and_resnets_papers(
    crops: str, scales: tuple[int, ...], average: str, photos: str, tmp_path: Path
) -> None:
    mean = torch.linspace(0.2, 0.7, 3 * 32 * 32).view(3, 32, 32)  # a mean image, as ResNet subtracts it
    run = make_run(tmp_path / "run", make_classifier(3, data=photos, mean=mean))
    ca.evaluate(run, crops=crops)
    predictions = cached_predictions(run)
    files = sorted(Path(photos.removeprefix("folder:"), "test").glob("*/*.png"))
    with torch.no_grad():
        for i in (0, 7, 23):
            expected = dense_probabilities(ca.load(run), files[i], scales, average)
            np.testing.assert_allclose(softmax(predictions.logits[i]), expected, rtol=2e-4)


def test_a_trainings_crop_sets_the_scale_of_dense_evaluation(tmp_path: Path) -> None:
    name = make_photos(tmp_path / "photos", classes=CLASSES[:2])
    run = ca.Run(model="resnet20_cifar", data=name)
    recipe = run.recipe.replace(crop=ScaleJitter(resize_range=(256, 512)), batch=4, budget=Epochs(1))
    result = ca.train(run.replace(recipe=recipe, precision="fp32"), out=tmp_path / "run")
    document = ca.evaluate(result.out, crops="dense")
    views = {"type": "FullImage", "scales": (384,), "mirrored": True, "paper_size": 224}
    assert document["members"][0]["multi_crop"] == views


# Requests that are refused


def test_unknown_names_are_refused_with_the_nearest(runs: list[Path]) -> None:
    classifier = ca.load(runs[0])
    with pytest.raises(UsageError, match="unknown protocol '11': the nearest is '12'"):
        ca.evaluate(classifier, crops="11")
    with pytest.raises(UsageError, match="unknown split 'tests': the nearest is 'test'"):
        ca.evaluate(classifier, split="tests")


def test_members_that_do_not_fit_together_are_refused(photos: str, runs: list[Path]) -> None:
    classifier = ca.load(runs[0])
    five_classes = make_classifier(1, data=photos, classes=CLASSES[:5])
    other_classes = "#2 has other classes than the first of the ensemble"
    with pytest.raises(
        UsageError, match=r"run0 and .*run0/model.safetensors are the same network: name each once"
    ):
        ca.evaluate([runs[0], runs[1], runs[0] / "model.safetensors"])
    with pytest.raises(UsageError, match="needs at least one"):
        ca.evaluate([])
    with pytest.raises(UsageError, match=f"{other_classes}: only the first has '{CLASSES[5]}'"):
        ca.evaluate([classifier, five_classes])
    with pytest.raises(UsageError, match=f"{other_classes}: the first lacks '{CLASSES[5]}'"):
        ca.evaluate([five_classes, classifier])
    with pytest.raises(
        UsageError, match=r"trained on different data, .* and folder:elsewhere: say which with --data"
    ):
        ca.evaluate([classifier, make_classifier(1, data="folder:elsewhere")])
    with pytest.raises(UsageError, match="does not say what it was trained on"):
        ca.evaluate(make_classifier(1))
    with pytest.raises(UsageError, match="--subsets takes at most 10 members, not 11"):
        ca.evaluate([make_classifier(seed, data=photos) for seed in range(11)], subsets=True)


def test_square_crops_are_refused_for_an_input_that_is_no_square(photos: str) -> None:
    classifier = make_classifier(1, data=photos, preprocessing=center_crop_preprocessing(3, (32, 48)))
    message = r"takes images of 32x48, and the crops of Krizhevsky 2012, sec. 4.1 are squares"
    with pytest.raises(UsageError, match=message):
        ca.evaluate(classifier, crops="10")
    assert ca.evaluate(classifier)["n"] == NUM_TEST_IMAGES


def test_nothing_is_computed_before_all_members_are_checked(
    photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_evaluation(monkeypatch)
    no_square = make_classifier(1, data=photos, preprocessing=center_crop_preprocessing(3, (32, 48)))
    with pytest.raises(UsageError, match="#2 takes images of 32x48"):
        ca.evaluate([make_classifier(0, data=photos), no_square], crops="144")


def test_a_network_that_labels_pixels_needs_masks_and_others_of_its_task(photos: str) -> None:
    classifier = make_classifier(0, data=photos)
    classifier.metadata = classifier.metadata.replace(network=models.get_architecture("unet"))
    with pytest.raises(UsageError, match="has no masks"):
        ca.evaluate(classifier)
    with pytest.raises(UsageError, match="#1 and #2 are the same network"):
        ca.evaluate([classifier, classifier])
    with pytest.raises(UsageError, match="#2 labels pixels and #1 classifies images"):
        ca.evaluate([make_classifier(1, data=photos), classifier])
    with pytest.raises(UsageError, match="--subsets is for networks that classify"):
        ca.evaluate(classifier, subsets=True)


def test_imagenets_ids_in_the_data_are_matched_with_the_names_of_a_classifier() -> None:
    """Folders are named by WordNet's ids; imported classifiers have the names."""
    names = imagenet_class_names()
    classifier: Any = SimpleNamespace(metadata=SimpleNamespace(classes=names))
    data: Any = SimpleNamespace(name="imagenet:x", classes=("n01440764", "n03126707", "n15075141"))
    assert class_indices(data, classifier).tolist() == [0, names.index("crane"), 999]
    data.classes = ("n00000000",)
    with pytest.raises(UsageError, match="has 1 classes that the classifier lacks, 'n00000000' first"):
        class_indices(data, classifier)
