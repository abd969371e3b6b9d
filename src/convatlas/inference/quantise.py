"""Weights and activations in 8 bits: ranges measured on images of the training split, by NNCF after the training."""

import contextlib
import logging
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from convatlas.inference import openvino
from convatlas.inference.graph import Subject

IMAGES = 300  # that the ranges are measured on: NNCF's own advice


def lacks() -> str | None:
    return openvino.lacks() or (None if find_spec("nncf") else "NNCF: pip install 'convatlas[openvino]'")


def quantise(part: Subject, example: Tensor, calibration: Iterable[Tensor]) -> Any:
    """The graph as an OpenVINO model with a free batch whose convolutions and matrix products are int8.

    `calibration`: batches of images of the example's type and size, as they come in use.
    """
    openvino.library()  # before NNCF, which would bring the telemetry
    logging.getLogger("nncf").setLevel(logging.ERROR)
    import nncf

    images = [image[None].contiguous().numpy() for batch in calibration for image in batch][:IMAGES]
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars
        return nncf.quantize(openvino.model(part, example), nncf.Dataset(images), subset_size=len(images))
