"""The report of a run."""

import numpy as np

from convatlas.evaluation.metrics import SampleScores
from convatlas.training.report import most_confident_mistakes


def test_the_mistakes_are_distinct_images_the_most_confident_first() -> None:
    labels = np.array([0, 0, 0, 1, 1, 0])
    predictions = np.array([1, 1, 1, 0, 1, 1])
    confidences = np.array([0.7, 0.9, 0.9, 0.6, 1.0, 0.8])
    samples = SampleScores(labels, predictions, labels, confidences, confidences, 2)
    contents = [b"a", b"b", b"b", b"b", b"c", b"a"]  # b is under two labels, which both count
    assert most_confident_mistakes(samples, contents).tolist() == [1, 5, 3]
    assert most_confident_mistakes(samples).tolist() == [1, 2, 5, 0, 3]
