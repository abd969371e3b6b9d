"""Runs to plan, and hypothesis strategies for everything that a plan is computed from."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

import convatlas as ca
from convatlas import models, recipes
from convatlas.runtime.hardware import DeviceSpec
from convatlas.training.planning.step_time import LoaderRate, StepTime
from convatlas.training.planning.workload import LayerCost, ModelCost, Workload


def resnet_run(**fields: Any) -> ca.Run:
    """ResNet-20 at half width on digits, for one epoch."""
    run = ca.Run(model=models.get_architecture("resnet20_cifar", width=0.5), data="digits", **fields)
    return run.replace(recipe=run.recipe.replace(batch=32, budget=recipes.Epochs(1)))


def device_spec(**fields: Any) -> DeviceSpec:
    """A device with 10^12 FLOP/s, 10^11 bytes a second and 10^10 bytes of memory."""
    spec = DeviceSpec(
        name="device", origin="published", source="", flops={"fp32": 1e12}, bandwidth=1e11, memory=10**10
    )
    return replace(spec, **fields)


def layer_costs() -> st.SearchStrategy[LayerCost]:
    def layer_cost(flops: int, weights: int, activations: int) -> LayerCost:
        return LayerCost(flops, weights, weights + activations)

    return st.builds(
        layer_cost, st.integers(0, 10**9), st.integers(0, 10**8), activations=st.integers(1, 10**8)
    )


def model_costs() -> st.SearchStrategy[ModelCost]:
    def model_cost(params: int, frozen_tenths: int, **fields: Any) -> ModelCost:
        trainable = params - frozen_tenths * params // 10
        return ModelCost(params=params, trainable=trainable, precision="fp32", **fields)

    return st.builds(
        model_cost,
        st.integers(1, 10**9),
        st.integers(0, 10),
        buffers=st.integers(0, 10**9),
        weight_copy_bytes=st.integers(0, 10**9),
        states=st.integers(0, 3),
        averaged=st.booleans(),
        macs=st.integers(0, 10**9),
        image_bytes=st.integers(1, 10**7),
        saved_activation_bytes=st.integers(0, 10**9),
        activation_gradient_bytes=st.integers(0, 10**8),
        inference_bytes=st.integers(0, 10**8),
        layers=st.lists(layer_costs(), min_size=1, max_size=4).map(tuple),
    )


def workloads() -> st.SearchStrategy[Workload]:
    def workload(batch: int, micro_batch: int, **fields: Any) -> Workload:
        return Workload(batch=batch, micro_batch=min(batch, micro_batch), **fields)

    return st.builds(
        workload,
        st.integers(1, 2048),
        st.integers(1, 512),
        evaluation_batch=st.integers(1, 512),
        steps=st.integers(1, 10**6),
        steps_per_epoch=st.integers(1, 10**4),
        validate_every=st.integers(1, 10**4),
        val=st.integers(0, 10**5),
        test=st.integers(0, 10**5),
    )


def step_times() -> st.SearchStrategy[StepTime]:
    seconds = st.floats(0, 1)
    return st.builds(
        StepTime,
        fixed=seconds,
        per_image=st.floats(1e-6, 1),
        update=seconds,
        evaluation=seconds,
        exchange=seconds,
    )


def loader_rates() -> st.SearchStrategy[LoaderRate | None]:
    return st.none() | st.builds(LoaderRate, st.floats(1, 1e6), st.booleans())
