"""Losses against their equations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convatlas.optim.losses import CrossEntropy, MAPCriterion

RNG = np.random.default_rng(0)


def test_the_map_criterion_is_equation_9() -> None:
    penalties = RNG.uniform(0, 5, size=(4, 10))
    targets = np.array([0, 3, 9, 3])
    j = 1.5
    expected = [y[d] + np.log(np.exp(-j) + np.exp(-y).sum()) for y, d in zip(penalties, targets, strict=True)]
    losses = MAPCriterion(j=j)(torch.from_numpy(-penalties).float(), torch.from_numpy(targets))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_cross_entropy_with_smoothed_labels_is_its_definition() -> None:
    logits = RNG.normal(size=(4, 10))
    targets = np.array([0, 3, 9, 3])
    eps = 0.1
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    q = np.full((4, 10), eps / 10)
    q[np.arange(4), targets] += 1 - eps
    losses = CrossEntropy(label_smoothing=eps)(torch.from_numpy(logits), torch.from_numpy(targets))
    np.testing.assert_allclose(losses, -(q * log_p).sum(axis=1), rtol=1e-6)


@given(st.integers(2, 20), st.floats(0, 0.9))
def test_label_smoothing_adds_the_cross_entropy_with_the_uniform(classes: int, eps: float) -> None:
    """arXiv:1512.00567, sec. 7: H(q', p) = (1 - eps) H(q, p) + eps H(u, p)."""
    logits = torch.randn(3, classes, generator=torch.Generator().manual_seed(classes)) * 4
    targets = torch.arange(3) % classes
    log_p = logits.double().log_softmax(1)
    smoothed = (1 - eps) * nn.functional.one_hot(targets, classes).double() + eps / classes
    expected = -(smoothed * log_p).sum(1)
    mixture = (1 - eps) * -log_p.gather(1, targets[:, None])[:, 0] + eps * -log_p.mean(1)
    torch.testing.assert_close(expected, mixture, rtol=1e-10, atol=1e-12)
    losses = CrossEntropy(label_smoothing=eps)(logits, targets)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weighted_mean_is_that_of_torchs_weighted_cross_entropy(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(50, 4), torch.randint(0, 4, (50,))
    weights = torch.tensor([0.1, 1.0, 2.0, 7.5])
    losses = CrossEntropy(label_smoothing=smoothing)(logits, targets, weights)
    expected = F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)
    torch.testing.assert_close(losses.sum() / weights[targets].sum(), expected)


def test_lecuns_loss_is_weighted_by_the_class_of_the_sample() -> None:
    logits, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    weights = torch.tensor([1.0, 2.0, 0.5])
    loss = MAPCriterion(j=1.0)
    torch.testing.assert_close(loss(logits, targets, weights), loss(logits, targets) * weights[targets])
