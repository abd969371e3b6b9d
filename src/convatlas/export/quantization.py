"""Weights and activations in 8 bits: ranges measured on images of the training split, by NNCF after the training."""

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

IMAGES = 300  # that the ranges are measured on: NNCF's own advice


def missing_requirement() -> str | None:
    return openvino.missing_requirement() or (None if find_spec("nncf") else "NNCF: pip install 'convatlas[openvino]'")


def calibration_images(images: ImageSource, preprocessing: Preprocessing) -> Tensor:
    """Images to calibrate on, of a training split: (n, c, h, w), uint8; the same ones every time."""
    batch, unread = preprocessing.load_batch(images, np.sort(counter_rng.permutation(0, 0, len(images))[:IMAGES]))
    broken = {one.index for one in unread}
    if broken:
        raise UserError(f"{len(broken)} of the {len(batch)} images to calibrate on cannot be read: look at them with convatlas data check")
    return batch


def quantize(part: InferenceModule, example: Tensor, calibration: Iterable[Tensor]) -> Any:
    """The graph as an OpenVINO model with a free batch whose convolutions and matrix products are int8.

    `calibration`: batches of images of the example's type and size, as they come in use.
    """
    openvino.library()  # before NNCF, which would bring the telemetry
    logging.getLogger("nncf").setLevel(logging.ERROR)
    import nncf

    images = [image[None].contiguous().numpy() for batch in calibration for image in batch][:IMAGES]
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars
        # the quick correction of biases lost up to 1.4 points where the thorough one lost 0.2 (docs/inference.md)
        return nncf.quantize(
            openvino.converted_model(part, example), nncf.Dataset(images), subset_size=len(images), fast_bias_correction=False
        )
