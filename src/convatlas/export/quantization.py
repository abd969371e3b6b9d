"""Post-training quantization to 8 bits: NNCF measures the ranges on training images."""

import contextlib
import logging
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
from torch import Tensor

from convatlas.data.dataset import ImageSource
from convatlas.data.transforms import counter_rng
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.errors import UserError
from convatlas.inference import openvino
from convatlas.inference.graph import InferenceModule

NUM_CALIBRATION_IMAGES = 300  # as NNCF advises


def missing_requirement() -> str | None:
    return openvino.missing_requirement() or (
        None if find_spec("nncf") else "NNCF: pip install 'convatlas[openvino]'"
    )


def calibration_images(images: ImageSource, preprocessing: Preprocessing) -> Tensor:
    """Images of a training split to calibrate on: (n, c, h, w), uint8; the same ones every time."""
    indices = np.sort(counter_rng.permutation(0, 0, len(images))[:NUM_CALIBRATION_IMAGES])
    batch, unreadable = preprocessing.load_batch(images, indices)
    count = len({sample.index for sample in unreadable})
    if count:
        raise UserError(
            f"{count} of the {len(batch)} calibration images cannot be read: look at them with convatlas "
            "data check"
        )
    return batch


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
