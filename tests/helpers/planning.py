"""Runs that are planned, and anything that a plan can be made of."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

import convatlas as ca
from convatlas import models, recipes
from convatlas.runtime.hardware import DeviceSpec
from convatlas.training.planning.step_time import LoaderRate, StepTime
from convatlas.training.planning.workload import LayerCost, ModelCost, Workload
from convatlas.training.run import Run


def resnet_run(**changes: Any) -> Run:
    run = ca.Run(model=models.get_architecture("resnet20_cifar", width=0.5), data="digits", **changes)
    return run.replace(recipe=run.recipe.replace(batch=32, budget=recipes.Epochs(1)))


def networks() -> st.SearchStrategy[ModelCost]:
    size = st.integers(0, 10**9)
    layers = st.builds(lambda f, w, m: LayerCost(f, w, w + m), size, st.integers(0, 10**8), st.integers(1, 10**8))
    return st.builds(
        lambda params, frozen, **rest: ModelCost(params=params, trainable=params - frozen * params // 10, precision="fp32", **rest),
        st.integers(1, 10**9),
        st.integers(0, 10),
        buffers=size,
        weight_copy_bytes=size,
        states=st.integers(0, 3),
        averaged=st.booleans(),
        macs=size,
        image_bytes=st.integers(1, 10**7),
        saved_activation_bytes=st.integers(0, 10**9),
        activation_gradient_bytes=st.integers(0, 10**8),
        inference_bytes=st.integers(0, 10**8),
        layers=st.lists(layers, min_size=1, max_size=4).map(tuple),
    )


def works() -> st.SearchStrategy[Workload]:
    return st.builds(
        lambda batch, micro, **rest: Workload(batch=batch, micro_batch=min(batch, micro), **rest),
        st.integers(1, 2048),
        st.integers(1, 512),
        evaluation_batch=st.integers(1, 512),
        steps=st.integers(1, 10**6),
        steps_per_epoch=st.integers(1, 10**4),
        val=st.integers(0, 10**5),
        test=st.integers(0, 10**5),
    )


def paces() -> st.SearchStrategy[StepTime]:
    seconds = st.floats(0, 1)
    return st.builds(StepTime, fixed=seconds, per_image=st.floats(1e-6, 1), update=seconds, evaluation=seconds, exchange=seconds)


def machine(**changes: Any) -> DeviceSpec:
    plain = DeviceSpec(name="m", origin="published", source="", flops={"fp32": 1e12}, bandwidth=1e11, memory=10**10)
    return replace(plain, **changes)


LOADINGS = st.none() | st.builds(LoaderRate, st.floats(1, 1e6), st.booleans())
