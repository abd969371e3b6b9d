"""The protocols: the scale of dense evaluation follows the training."""

import msgspec
import pytest

from convatlas.data.transforms.multi_crop import FullImage
from convatlas.data.transforms.random_crop import RandomResizedCrop, ScaleJitter
from convatlas.evaluation.protocols import get_protocol


@pytest.mark.parametrize(
    ("crop", "scale"),
    [
        (ScaleJitter(resize_range=(256, 512)), 384),  # arXiv:1409.1556, sec. 4.1: 0.5 (S_min + S_max)
        (ScaleJitter(resize_range=(256, 480)), 368),
        (ScaleJitter(resize_range=(256, 256)), 256),
        (RandomResizedCrop(), 256),
        (None, 256),
    ],
)
def test_dense_evaluation_uses_the_scale_of_training(
    crop: ScaleJitter | RandomResizedCrop | None, scale: int
) -> None:
    assert get_protocol("dense", msgspec.to_builtins(crop)).views == FullImage(scales=(scale,))


def test_multiscale_evaluation_has_its_own_scales() -> None:
    views = get_protocol("multiscale", msgspec.to_builtins(ScaleJitter())).views
    assert views == FullImage(scales=(224, 256, 384, 480, 640))
