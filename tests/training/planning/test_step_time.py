"""Seconds of a step by measured sizes and by the roofline; and what GPUs are known to do."""

from typing import Any

import pytest
import torch
from helpers.planning import machine, networks
from hypothesis import given
from hypothesis import strategies as st

import convatlas as ca
from convatlas import models
from convatlas.runtime import hardware as devices
from convatlas.training.planning import workload
from convatlas.training.planning.step_time import (
    ASSUMED_SHARE,
    fit_line,
    roofline,
    roofline_step_time,
    training_roofline,
)
from convatlas.training.planning.workload import LayerCost, ModelCost
from convatlas.training.resolve import resolve_run

CPU = torch.device("cpu")


@given(networks(), st.integers(1, 512), st.floats(0.01, 1))
def test_a_pace_by_the_roofline_is_exact_at_both_ends(n: ModelCost, images: int, share: float) -> None:
    pace = roofline_step_time(n, machine(), images, share)
    for k in (1, images):
        assert pace.images(k, images) == pytest.approx(training_roofline(n, machine(), k) / share)
    assert pace.fixed >= 0
    assert pace.per_image >= 0


def test_the_roofline_takes_the_longer_of_arithmetic_and_traffic() -> None:
    n = ModelCost(
        **dict.fromkeys(("params", "trainable", "buffers", "weight_copy_bytes", "states", "macs", "image_bytes", "saved_activation_bytes"), 1),
        activation_gradient_bytes=0,
        inference_bytes=0,
        averaged=False,
        precision="fp32",
        layers=(LayerCost(10**9, 0, 10), LayerCost(10, 1000, 10**8 + 1000)),
    )
    rates = machine()  # 10^12 FLOP/s, 10^11 bytes a second
    assert roofline(n, rates, 2) == pytest.approx(2e-3 + (1000 + 2e8) / 1e11)


@pytest.mark.parametrize(
    ("device", "precision", "found"), [("v100-16gb", "fp32", 367), ("a100-80gb", "tf32", 938), ("a100-80gb", "bf16", 2470)]
)
def test_a_plan_by_published_peaks_is_within_two_fifths_of_what_gpus_do(device: str, precision: Any, found: int) -> None:
    """Images a second of one GPU, ResNet-50 with the stride in its 3x3 convolutions: NVIDIA's DeepLearningExamples, resnet50v1.5."""
    run = ca.Run(model=models.get_architecture("resnet50", "torchvision"), data="digits", recipe="quick")
    whole, _ = resolve_run(run.replace(recipe=run.recipe.replace(batch=256)), CPU)
    pace = roofline_step_time(workload.model_cost(whole, precision), devices.get_device_spec(device), 256, ASSUMED_SHARE)
    assert found / 1.4 < 256 / (pace.images(256, 256) + pace.update) < found * 1.4


def test_two_measured_sizes_give_a_line() -> None:
    assert fit_line([(2, 0.3), (32, 1.8)]) == pytest.approx((0.2, 0.05))
    assert fit_line([(4, 2.0)]) == (0, 0.5)
    assert fit_line([(2, 1.0), (8, 0.9)]) == (0.9, 0)  # a larger pass that was quicker: no more than its own time
    assert fit_line([(2, 0.1), (8, 1.0)])[0] >= 0
