"""Seconds of a step: from two measured sizes, by the roofline, and as published for GPUs."""

import pytest
import torch
from helpers.planning import device_spec, model_costs
from hypothesis import given
from hypothesis import strategies as st

import convatlas as ca
from convatlas import models
from convatlas.runtime.device import Precision
from convatlas.runtime.hardware import get_device_spec
from convatlas.training.planning.step_time import (
    ASSUMED_SHARE,
    fit_line,
    roofline,
    roofline_step_time,
    training_roofline,
)
from convatlas.training.planning.workload import LayerCost, ModelCost, model_cost
from convatlas.training.resolve import resolve_run


@given(model_costs(), st.integers(1, 512), st.floats(0.01, 1))
def test_a_step_time_by_the_roofline_is_exact_at_both_ends(
    cost: ModelCost, images: int, share: float
) -> None:
    device = device_spec()
    step_time = roofline_step_time(cost, device, images, share)
    for size in (1, images):
        expected = training_roofline(cost, device, size) / share
        assert step_time.passes(size, images) == pytest.approx(expected)
    assert step_time.fixed >= 0
    assert step_time.per_image >= 0


def test_the_roofline_takes_the_longer_of_arithmetic_and_traffic() -> None:
    cost = ModelCost(
        params=1,
        trainable=1,
        buffers=1,
        states=1,
        averaged=False,
        macs=1,
        image_bytes=1,
        saved_activation_bytes=1,
        weight_copy_bytes=1,
        activation_gradient_bytes=0,
        inference_bytes=0,
        precision="fp32",
        layers=(LayerCost(10**9, 0, 10), LayerCost(10, 1000, 10**8 + 1000)),
    )
    arithmetic = 2 * 10**9 / 1e12  # FLOPs of the first layer, at 10^12 a second
    traffic = (1000 + 2 * 10**8) / 1e11  # bytes of the second layer, its weights once, at 10^11 a second
    assert roofline(cost, device_spec(), 2) == pytest.approx(arithmetic + traffic)


@pytest.mark.parametrize(
    ("device", "precision", "published"),
    [("v100-16gb", "fp32", 367), ("a100-80gb", "tf32", 938), ("a100-80gb", "bf16", 2470)],
)
def test_published_rates_of_gpus_are_estimated_within_two_fifths(
    device: str, precision: Precision, published: int
) -> None:
    """Images a second of one GPU for ResNet-50 with the stride in its 3x3 convolutions: NVIDIA's
    DeepLearningExamples, resnet50v1.5."""
    run = ca.Run(model=models.get_architecture("resnet50", "torchvision"), data="digits", recipe="quick")
    run = resolve_run(run.replace(recipe=run.recipe.replace(batch=256)), torch.device("cpu")).run
    cost = model_cost(run, precision)
    step_time = roofline_step_time(cost, get_device_spec(device), 256, ASSUMED_SHARE)
    rate = 256 / (step_time.passes(256, 256) + step_time.update)
    assert published / 1.4 < rate < published * 1.4


def test_two_measured_sizes_give_a_line() -> None:
    assert fit_line([(2, 0.3), (32, 1.8)]) == pytest.approx((0.2, 0.05))
    assert fit_line([(4, 2.0)]) == (0, 0.5)
    assert fit_line([(2, 1.0), (8, 0.9)]) == (0.9, 0)  # the larger pass was quicker: its own time, at most
    assert fit_line([(2, 0.1), (8, 1.0)])[0] >= 0
