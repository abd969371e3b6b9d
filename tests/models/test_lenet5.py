"""LeNet-5 against its paper."""

import torch

from convatlas import models
from convatlas.models.lenet5 import class_codes


def test_the_layers_of_lenet5_have_the_printed_parameters_and_shapes() -> None:
    model = models.create_model("lenet5")
    x = torch.zeros(1, 1, 32, 32)
    printed: dict[str, tuple[int, tuple[int, ...]]] = {
        "C1": (156, (6, 28, 28)),
        "S2": (12, (6, 14, 14)),
        "C3": (1516, (16, 10, 10)),
        "S4": (32, (16, 5, 5)),
    }
    printed |= {"C5": (48_120, (120,)), "F6": (10_164, (84,)), "output": (0, (10,))}
    for name, layer in model.named_children():
        x = layer(x)
        assert (sum(p.numel() for p in layer.parameters()), tuple(x.shape[1:])) == printed.pop(name)
    assert not printed


def test_codes_are_distinct_for_300_classes() -> None:
    codes = class_codes(300)
    assert codes.shape == (300, 84)
    assert codes.abs().eq(1).all()
    assert len({tuple(row) for row in codes.tolist()}) == 300
    assert torch.equal(class_codes(10), codes[:10])
