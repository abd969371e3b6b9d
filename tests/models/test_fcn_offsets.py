"""FCN's crops against the arithmetic of Caffe's coordinate maps, and a pixel followed through an FCN-8s whose
weights come in Caffe's layout."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convatlas.models.fcn import FCN, TABLE_2

# The layers of the published prototxts that change coordinates: (kernel, stride, padding)
CONV1_1 = (3, 1, 100)
KEEPS_GRID = (3, 1, 1)
POOL = (2, 2, 0)
FC6 = (7, 1, 0)
TO_POOL3 = [CONV1_1, KEEPS_GRID, POOL, *[KEEPS_GRID] * 2, POOL, *[KEEPS_GRID] * 3, POOL]
TO_POOL4 = [*TO_POOL3, *[KEEPS_GRID] * 3, POOL]
TO_FC6 = [*TO_POOL4, *[KEEPS_GRID] * 3, POOL, FC6]


def convolved(position: Fraction, kernel: int, stride: int, padding: int) -> Fraction:
    """Caffe's coord_map.py: x -> x / stride + (padding - (kernel - 1) / 2) / stride."""
    return position / stride + (padding - Fraction(kernel - 1, 2)) / stride


def deconvolved(position: Fraction, kernel: int, stride: int) -> Fraction:
    """Caffe's coord_map.py: x -> stride x + (kernel - 1) / 2, without padding."""
    return stride * position + Fraction(kernel - 1, 2)


def origin(layers: list[tuple[int, int, int]]) -> Fraction:
    """The coordinate in the last layer's map of the image's first pixel."""
    position = Fraction(0)
    for layer in layers:
        position = convolved(position, *layer)
    return position


def test_crops_are_those_of_caffes_coordinate_maps() -> None:
    """A crop's offset is the difference of the two maps' coordinates of one pixel."""
    offsets: dict[str, list[Fraction]] = {}
    scores = origin(TO_FC6)
    offsets["FCN-32s"] = [deconvolved(scores, 64, 32)]
    scores = deconvolved(scores, 4, 2)
    crop_pool4 = origin(TO_POOL4) - scores  # the sum has the coordinates of the upsampled scores
    offsets["FCN-16s"] = [crop_pool4, deconvolved(scores, 32, 16)]
    scores = deconvolved(scores, 4, 2)
    offsets["FCN-8s"] = [crop_pool4, origin(TO_POOL3) - scores, deconvolved(scores, 16, 8)]
    assert offsets == {"FCN-32s": [19], "FCN-16s": [5, 27], "FCN-8s": [5, 9, 31]}
    for row, expected in offsets.items():
        with torch.device("meta"):
            model = FCN(TABLE_2[row], width=0.05)
        assert [skip.crop for skip in model.skips] + [model.upsampling.crop] == expected
        for skip in model.skips:
            stage = model.get_submodule(skip.name)
            assert isinstance(stage, nn.ConvTranspose2d)
            assert (stage.kernel_size, stage.stride) == ((4, 4), (2, 2))


Blobs = dict[str, list[NDArray[np.float32]]]


def caffe_blobs(score: str, fc6_tap: tuple[int, int] = (3, 3)) -> Blobs:
    """The blobs of voc-fcn8s at a 64th of its width and with one class, as Caffe has them: weights (out, in,
    h, w), those of a deconvolution (in, out, h, w), then biases.

    Every convolution copies its first map; of the three scoring layers only `score` passes it on.
    """
    blocks = {1: [1] * 2, 2: [2] * 2, 3: [4] * 3, 4: [8] * 3, 5: [8] * 3}
    blobs: Blobs = {}
    c = 3
    for block, channels in blocks.items():
        for number, c_out in enumerate(channels, start=1):
            blobs[f"conv{block}_{number}"] = [np.zeros((c_out, c, 3, 3), np.float32)]
            c = c_out
    blobs["fc6"] = [np.zeros((64, 8, 7, 7), np.float32)]
    blobs["fc7"] = [np.zeros((64, 64, 1, 1), np.float32)]
    for name, c_in in (("score_fr", 64), ("score_pool4", 8), ("score_pool3", 4)):
        blobs[name] = [np.zeros((1, c_in, 1, 1), np.float32)]
    for name, (weight, *_) in blobs.items():
        row, column = fc6_tap if name == "fc6" else (weight.shape[2] // 2, weight.shape[3] // 2)
        weight[0, 0, row, column] = 1.0 if not name.startswith("score") or name == score else 0.0
        blobs[name].append(np.zeros(len(weight), np.float32))
    for name, kernel in (("upscore2", 4), ("upscore_pool4", 4), ("upscore8", 16)):
        side = 1 - np.abs(np.arange(kernel) - (kernel - 1) / 2) / (kernel // 2)
        blobs[name] = [np.outer(side, side).astype(np.float32)[None, None]]
    return blobs


def fcn8s_of(blobs: Blobs) -> FCN:
    model = FCN(TABLE_2["FCN-8s"], num_classes=1, width=1 / 64).eval()
    state = {
        f"{layer}.{kind}": torch.from_numpy(array)
        for layer, arrays in blobs.items()
        for kind, array in zip(("weight", "bias"), arrays, strict=False)
    }
    model.load_state_dict(state)  # strict: the release's names are ours
    return model


def centre_of_mass(logits: Tensor) -> tuple[float, float]:
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in logits.shape)
    mass = logits.double() / logits.double().sum()
    return float(mass.sum(1) @ rows), float(mass.sum(0) @ columns)


@pytest.mark.parametrize(
    ("score", "fc6_tap", "centre"),
    [
        # Row 109 is row 208 of the padded conv1_1. Pool3's cell 208 // 8 = 26 has rows 208 ... 215, which are
        # 109 ... 116 of the image; column 77 is column 176, in cell 22: columns 77 ... 84
        ("score_pool3", (3, 3), (112.5, 80.5)),
        # cells 208 // 16 = 13 and 11: 109 ... 124 and 77 ... 92
        ("score_pool4", (3, 3), (116.5, 84.5)),
        # cells 208 // 32 = 6 and 5: 93 ... 124 and 61 ... 92
        ("score_fr", (3, 3), (108.5, 76.5)),
        # a weight one row above fc6's centre, or one column left of it, sees the cell from the next one
        ("score_fr", (2, 3), (140.5, 76.5)),
        ("score_fr", (3, 2), (108.5, 108.5)),
    ],
)
def test_a_pixel_appears_where_the_published_offsets_put_it(
    score: str, fc6_tap: tuple[int, int], centre: tuple[float, float]
) -> None:
    model = fcn8s_of(caffe_blobs(score, fc6_tap))
    images = torch.zeros(1, 3, 224, 224)
    images[0, 0, 109, 77] = 1
    with torch.no_grad():
        logits = model(images)[0, 0]
    assert centre_of_mass(logits) == pytest.approx(centre, abs=1e-4)
    peak = np.unravel_index(int(logits.argmax()), logits.shape)
    assert np.abs(np.subtract(peak, centre)).max() <= 8  # the interpolation's two or four highest pixels


def test_a_pixel_of_another_place_moves_with_its_cells() -> None:
    model = fcn8s_of(caffe_blobs("score_pool3"))
    centres = []
    for row in (44, 45, 52, 53):
        images = torch.zeros(1, 3, 120, 120)
        images[0, 0, row, 60] = 1
        with torch.no_grad():
            centres.append(centre_of_mass(model(images)[0, 0])[0])
    assert centres == pytest.approx([40.5, 48.5, 48.5, 56.5], abs=1e-4)  # cells begin at row 45 - 8 i


@pytest.mark.parametrize("row", list(TABLE_2))
def test_names_of_layers_are_the_releases(row: str) -> None:
    released = {
        "FCN-32s": {"upscore"},
        "FCN-16s": {"upscore2", "score_pool4", "upscore16"},
        "FCN-8s": {"upscore2", "score_pool4", "upscore_pool4", "score_pool3", "upscore8"},
    }
    with torch.device("meta"):
        model = FCN(TABLE_2[row], width=0.05)
    layers = {path.split(".")[0] for path, _ in model.named_parameters()}
    assert layers - set(model.trunk) == {"score_fr"} | released[row]
