"""Metrics against scikit-learn and closed forms; predictions that depend on the image alone."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    top_k_accuracy_score,
)

from convatlas.data.dataset import ArrayImages, Split
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.evaluation import metrics
from convatlas.evaluation.metrics import score_samples
from convatlas.evaluation.predict import predict_split
from convatlas.evaluation.results import classification_scores, majority_sentence, results_document

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(300, 10)).astype(np.float32)
LABELS = RNG.integers(0, 10, 300)


def test_scores_are_those_of_scikit_learn() -> None:
    samples = score_samples(LOGITS, LABELS)
    scores = classification_scores(samples)
    assert scores["top1"] == pytest.approx(100 * top_k_accuracy_score(LABELS, LOGITS, k=1))
    assert scores["top5"] == pytest.approx(100 * top_k_accuracy_score(LABELS, LOGITS, k=5))
    assert scores["loss"] == pytest.approx(log_loss(LABELS, np.exp(metrics.log_probabilities(LOGITS))))
    assert (metrics.confusion(samples) == confusion_matrix(LABELS, LOGITS.argmax(axis=1))).all()


@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 1000))
def test_balanced_accuracy_and_macro_f1_are_those_of_scikit_learn(classes: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, classes, (2, n))
    confusion = confusion_matrix(labels, predictions, labels=range(classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes that are predicted but no label
        expected = balanced_accuracy_score(labels, predictions)
    assert metrics.balanced_accuracy(confusion) == pytest.approx(100 * expected)
    assert metrics.macro_f1(confusion) == pytest.approx(100 * f1_score(labels, predictions, average="macro"))


def test_a_constant_prediction_on_imbalanced_classes_is_not_better_than_the_majority() -> None:
    labels = np.repeat([0, 1, 2], [300, 20, 10])
    constant = results_document(
        score_samples(np.eye(3, dtype=np.float32)[np.zeros(330, int)], labels), tuple("abc")
    )
    assert constant["top1"] == pytest.approx(90.909, abs=0.001)
    assert constant["majority_class"] == {"name": "a", "share": pytest.approx(90.909, abs=0.001)}
    assert constant["balanced_accuracy"] == pytest.approx(100 / 3)
    assert (
        "not known to be better than always predicting the largest class, a (90.91 %)"
        in majority_sentence(constant)
    )
    perfect = results_document(score_samples(np.eye(3, dtype=np.float32)[labels], labels), tuple("abc"))
    assert majority_sentence(perfect).startswith("better than")
    wrong = results_document(score_samples(np.eye(3, dtype=np.float32)[2 - labels], labels), tuple("abc"))
    assert majority_sentence(wrong).startswith("worse than")


def test_top5_is_left_out_below_five_classes() -> None:
    assert classification_scores(score_samples(LOGITS[:, :4], LABELS % 4))["top5"] is None


def test_of_equal_logits_exactly_one_class_ranks_first() -> None:
    equal = np.zeros((4, 4), np.float32)
    assert metrics.correct(equal, np.arange(4)).tolist() == [True, False, False, False]


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons(successes_and_trials: tuple[int, int]) -> None:
    successes, n = successes_and_trials
    z = 1.959963984540054
    p = successes / n
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    expected = (100 * (center - half_width), 100 * (center + half_width))
    assert metrics.interval(successes, n) == pytest.approx(expected, abs=1e-9)


def test_a_document_counts_every_class() -> None:
    document = results_document(score_samples(LOGITS, LABELS), tuple("abcdefghij"))
    assert sum(row["n"] for row in document["per_class"]) == document["n"] == 300
    assert np.trace(np.array(document["confusion"])) / 3 == pytest.approx(document["top1"])
    assert document["top1_interval"][0] < document["top1"] < document["top1_interval"][1]


@pytest.mark.parametrize("order", ["as it is", "reversed"])
def test_logits_do_not_depend_on_order_or_padding(order: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10)
    ).eval()
    images = RNG.integers(0, 256, size=(50, 1, 8, 8), dtype=np.uint8)
    preprocessing = fixed_size_preprocessing(1, (8, 8), (8, 8))

    def predict(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        split = Split(ArrayImages(images[indices]), np.zeros(len(indices), np.int64))
        source = EvalBatches(split, preprocessing, 16)
        return predict_split(lambda x: model(x.float()), source, torch.device("cpu")).logits

    logits = predict(np.arange(50))
    indices = np.arange(50)[::-1] if order == "reversed" else np.arange(37)
    assert (predict(indices) == logits[indices]).all()
