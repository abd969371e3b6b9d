import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from convatlas.data.dataset import ArrayImages, Split
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.evaluation import metrics
from convatlas.evaluation.predict import predict_split
from convatlas.evaluation.results import classification_scores, results_document

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(300, 10)).astype(np.float32), RNG.integers(0, 10, 300)


def test_scores_are_scikit_learns() -> None:
    found = classification_scores(LOGITS, LABELS)
    assert found["top1"] == pytest.approx(100 * top_k_accuracy_score(LABELS, LOGITS, k=1))
    assert found["top5"] == pytest.approx(100 * top_k_accuracy_score(LABELS, LOGITS, k=5))
    assert found["loss"] == pytest.approx(log_loss(LABELS, np.exp(metrics.log_probabilities(LOGITS))))
    assert (metrics.confusion(LOGITS, LABELS) == confusion_matrix(LABELS, LOGITS.argmax(axis=1))).all()


def test_top5_is_left_out_below_five_classes() -> None:
    assert classification_scores(LOGITS[:, :4], LABELS % 4)["top5"] is None


def test_of_equal_scores_exactly_one_class_is_first() -> None:
    equal = np.zeros((4, 4), np.float32)
    assert metrics.correct(equal, np.arange(4)).tolist() == [True, False, False, False]


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons(successes_of: tuple[int, int]) -> None:
    k, n = successes_of
    z, p = 1.959963984540054, k / n
    centre, half = (p + z**2 / (2 * n)) / (1 + z**2 / n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert metrics.interval(k, n) == pytest.approx((100 * (centre - half), 100 * (centre + half)), abs=1e-9)


def test_a_document_counts_every_class() -> None:
    found = results_document(LOGITS, LABELS, tuple("abcdefghij"))
    assert sum(row["n"] for row in found["per_class"]) == found["n"] == 300
    assert np.trace(np.array(found["confusion"])) / 3 == pytest.approx(found["top1"])
    assert found["top1_interval"][0] < found["top1"] < found["top1_interval"][1]


@pytest.mark.parametrize("order", ["as it is", "reversed"])
def test_logits_do_not_hang_on_order_or_padding(order: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10)).eval()
    images = RNG.integers(0, 256, size=(50, 1, 8, 8), dtype=np.uint8)

    def run(chosen: np.ndarray) -> np.ndarray:
        source = EvalBatches(
            Split(ArrayImages(images[chosen]), np.zeros(len(chosen), np.int64)), fixed_size_preprocessing(1, (8, 8), (8, 8)), 16
        )
        return predict_split(lambda x: model(x.float()), source, torch.device("cpu")).logits

    every = run(np.arange(50))
    some = np.arange(50)[::-1] if order == "reversed" else np.arange(37)
    assert (run(some) == every[some]).all()
