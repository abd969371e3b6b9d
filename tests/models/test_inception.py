"""The grids and channels of the Inception papers."""

import pytest
import torch

from convatlas import models

# arXiv:1409.4842, Table 1, column "output size"
GOOGLENET = {
    "conv1": (64, 112),
    "pool1": (64, 56),
    "conv2": (192, 56),
    "pool2": (192, 28),
    "inception_3a": (256, 28),
    "inception_3b": (480, 28),
    "pool3": (480, 14),
    "inception_4a": (512, 14),
    "inception_4b": (512, 14),
    "inception_4c": (512, 14),
    "inception_4d": (528, 14),
    "inception_4e": (832, 14),
    "pool4": (832, 7),
    "inception_5a": (832, 7),
    "inception_5b": (1024, 7),
    "avgpool": (1024, 1),
}
# arXiv:1502.03167, Fig. 5; 4c, 4d and 4e as their filters sum
BN_INCEPTION = {
    "conv1": (64, 112),
    "pool1": (64, 56),
    "conv2": (192, 56),
    "pool2": (192, 28),
    "inception_3a": (256, 28),
    "inception_3b": (320, 28),
    "inception_3c": (576, 14),
    "inception_4a": (576, 14),
    "inception_4b": (576, 14),
    "inception_4c": (608, 14),
    "inception_4d": (608, 14),
    "inception_4e": (1056, 7),
    "inception_5a": (1024, 7),
    "inception_5b": (1024, 7),
}
# arXiv:1512.00567, Table 1: the input of the next row
INCEPTION_V2 = {
    "Conv2d_1a_3x3": (32, 149),
    "Conv2d_2a_3x3": (32, 147),
    "Conv2d_2b_3x3": (64, 147),
    "MaxPool_3a_3x3": (64, 73),
    "Conv2d_3b_3x3": (80, 71),
    "Conv2d_4a_3x3": (192, 35),
    "Conv2d_5a_3x3": (288, 35),
    "Mixed_5d": (288, 35),
    "Mixed_6a": (768, 17),
    "Mixed_6f": (768, 17),
    "Mixed_7a": (1280, 8),
    "Mixed_7c": (2048, 8),
}


@pytest.mark.parametrize(
    ("name", "printed"),
    [("googlenet", GOOGLENET), ("bn_inception", BN_INCEPTION), ("inception_v2", INCEPTION_V2)],
    ids=lambda v: str(v)[:12],
)
def test_every_layer_has_the_printed_channels_and_grid(
    name: str, printed: dict[str, tuple[int, int]]
) -> None:
    with torch.device("meta"):
        model = models.create_model(name).eval()
    images = torch.empty(1, *models.get_entry(name).input, device="meta")
    maps = models.features(model, images, list(printed))
    assert {path: (value.shape[1], value.shape[2]) for path, value in maps.items()} == printed


def test_v2_and_v3_have_the_numbers_of_modules_of_paper_and_release() -> None:
    def count_modules(name: str) -> list[int]:
        with torch.device("meta"):
            paths = [path for path, _ in models.create_model(name).named_children()]
        return [sum(path.startswith(f"Mixed_{grid}") for path in paths) for grid in (5, 6, 7)]

    assert count_modules("inception_v2") == [3, 1 + 5, 1 + 2]
    assert count_modules("inception_v3") == [3, 1 + 4, 1 + 2]


def test_the_stems_of_table_2_give_nearly_the_same_grids() -> None:
    sides = {}
    for field in (299, 151, 79):
        with torch.device("meta"):
            model = models.create_model("inception_v3", field=field).eval()
        images = torch.empty(1, 3, field, field, device="meta")
        maps = models.features(model, images, ["Mixed_5d", "Mixed_6e", "Mixed_7c"])
        sides[field] = [value.shape[2] for value in maps.values()]
    assert sides == {299: [35, 17, 8], 151: [35, 17, 8], 79: [36, 17, 8]}
