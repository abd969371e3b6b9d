"""Post-training quantization to 8 bits: NNCF measures the ranges on training images."""

import contextlib
import logging
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.transforms import counter_rng
from convatlas.inference import openvino
from convatlas.inference.graph import InferenceModule

NUM_CALIBRATION_IMAGES = 300  # as NNCF advises


def missing_requirement() -> str | None:
    return openvino.missing_requirement() or (
        None if find_spec("nncf") else "NNCF: pip install 'convatlas[openvino]'"
    )


def calibration_indices(count: int) -> NDArray[np.int64]:
    """Which of `count` training images to calibrate on; the same ones every time."""
    return np.sort(counter_rng.permutation(0, 0, count)[:NUM_CALIBRATION_IMAGES])


def quantize(module: InferenceModule, example: Tensor, calibration: Iterable[Tensor]) -> Any:
    """The graph as an OpenVINO model with a free batch whose convolutions and matrix products are int8.

    `calibration`: batches of images of the example's type and size, as they come in use.
    """
    openvino.library()  # before NNCF, which would load the telemetry
    logging.getLogger("nncf").setLevel(logging.ERROR)
    import nncf

    images = [image[None].contiguous().numpy() for batch in calibration for image in batch][
        :NUM_CALIBRATION_IMAGES
    ]
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars
        # the fast correction of biases lost up to 1.4 points where the accurate one lost 0.2
        # (docs/inference.md)
        return nncf.quantize(
            openvino.converted_model(module, example),
            nncf.Dataset(images),
            subset_size=len(images),
            fast_bias_correction=False,
        )
