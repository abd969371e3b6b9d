"""The figures of a run's report: curves that survive a spike, distinct mistakes in words."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from convatlas.evaluation.classification import CLASSIFICATION
from convatlas.evaluation.metrics import SampleScores
from convatlas.plotting import plot_style
from convatlas.training.classification_report import mistake_title, most_confident_mistakes
from convatlas.training.report_figures import plot_curves


def lines(val_losses: list[float], top1: list[float]) -> list[dict[str, Any]]:
    return [
        {"split": split, "epoch": epoch + 1.0, "loss": loss, "top1": accuracy, "lr": 0.1}
        for epoch, (val_loss, accuracy) in enumerate(zip(val_losses, top1, strict=True))
        for split, loss in (("train", 2.0 - 0.1 * epoch), ("val", val_loss))
    ]


def test_a_spike_of_the_loss_makes_its_axis_logarithmic_and_the_axis_says_so() -> None:
    with plot_style():
        spike = plot_curves(lines([2.1, 2800.0, 1.9, 1.8], [10, 11, 12, 13]), CLASSIFICATION).axes[0]
        calm = plot_curves(lines([2.1, 2.0, 1.9, 1.8], [10, 11, 12, 13]), CLASSIFICATION).axes[0]
    assert (spike.get_yscale(), spike.get_ylabel()) == ("log", "loss, logarithmic")
    assert (calm.get_yscale(), calm.get_ylabel()) == ("linear", "loss")


def test_training_and_validation_are_named_and_the_best_epoch_is_marked() -> None:
    with plot_style():
        loss, top1, lr = plot_curves(lines([2.1, 2.0, 1.9, 1.8], [10, 14, 12, 13]), CLASSIFICATION).axes
    legend = loss.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["training", "validation"]
    assert top1.get_title(loc="right") == "best validation 14.00 % at epoch 2"
    assert lr.get_ylabel() == "learning rate"


def test_a_mistake_says_what_was_predicted_and_what_is_true() -> None:
    samples: Any = SimpleNamespace(
        predictions=np.array([0]), labels=np.array([1]), confidences=np.array([0.79])
    )
    title = mistake_title(samples, 0, ("fruit", "vegetables"))
    assert title.replace("\u00a0", " ").replace("\n", " ") == "predicted fruit (79 %), true: vegetables"


def test_the_mistakes_are_distinct_images_the_most_confident_first() -> None:
    labels = np.array([0, 0, 0, 1, 1, 0])
    predictions = np.array([1, 1, 1, 0, 1, 1])
    confidences = np.array([0.7, 0.9, 0.9, 0.6, 1.0, 0.8])
    samples = SampleScores(labels, predictions, labels, confidences, confidences, 2)
    contents = [b"a", b"b", b"b", b"b", b"c", b"a"]  # b is under two labels, which both count
    assert most_confident_mistakes(samples, contents).tolist() == [1, 5, 3]
    assert most_confident_mistakes(samples).tolist() == [1, 2, 5, 0, 3]
