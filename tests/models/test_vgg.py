"""VGG: the columns of its table, and its initialisation from net A."""

import pytest
import torch
from torch import nn

from convatlas import models
from convatlas.models.vgg import TABLE_1, VGG, init_from


def build(name: str) -> VGG:
    torch.manual_seed(0)
    model = models.create_model(name, width=0.125, image_size=32, num_classes=5)
    assert isinstance(model, VGG)
    return model


@pytest.mark.parametrize(
    ("column", "layers"), [("A", 11), ("A-LRN", 11), ("B", 13), ("C", 16), ("D", 16), ("E", 19)]
)
def test_the_columns_have_the_printed_numbers_of_weight_layers(column: str, layers: int) -> None:
    assert sum(cell != "LRN" for block in TABLE_1[column] for cell in block) + 3 == layers


def test_a_deeper_net_starts_with_the_papers_seven_layers_of_net_a() -> None:
    net_a = build("vgg11")
    deeper = build("vgg16")
    init_from(deeper, net_a)
    copied = [
        name
        for name, layer in deeper.named_children()
        if isinstance(layer, nn.Conv2d | nn.Linear)
        and name in net_a._modules
        and torch.equal(layer.weight, net_a.get_parameter(f"{name}.weight"))
    ]
    assert copied == ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"]
    drawn = deeper.get_parameter("conv5_2.weight")
    assert drawn.std().item() == pytest.approx(0.1, rel=0.05)


def test_a_net_a_of_another_shape_is_refused_before_copying() -> None:
    deeper = build("vgg16")
    before = deeper.get_parameter("conv1_1.weight").clone()
    net_a = models.create_model("vgg11", width=0.125, image_size=32, num_classes=6)
    assert isinstance(net_a, VGG)
    with pytest.raises(ValueError, match=r"fc8.weight has shape \(6, 512\) in net A but \(5, 512\)"):
        init_from(deeper, net_a)
    assert torch.equal(deeper.get_parameter("conv1_1.weight"), before)


def test_response_normalisation_follows_the_first_relu_of_a_lrn() -> None:
    names = list(build("vgg11_lrn")._modules)
    assert names[:4] == ["conv1_1", "relu1_1", "norm1_2", "pool1"]
