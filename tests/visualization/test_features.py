"""Intermediate outputs of any module, in evaluation, which stays as it was."""

import pytest
import torch
from torch import Tensor, nn

import convatlas as ca
from convatlas.errors import UsageError, UserError

IMAGES = torch.randn(2, 3, 8, 8)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Dropout(0.9))
        self.rnn = nn.LSTM(4, 5, batch_first=True)
        self.unused = nn.Identity()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.conv(images)
        sequence, _ = self.rnn(maps.flatten(2).transpose(1, 2))
        return {"maps": maps, "logits": sequence[:, -1]}


def test_outputs_of_any_module_by_path() -> None:
    module = Own().train()
    outputs = ca.visualization.features(module, IMAGES, ["conv.0", "conv", "rnn"])
    with torch.no_grad():
        assert torch.equal(outputs["conv.0"], module.conv[0](IMAGES))  # before the activation in place
        assert torch.equal(outputs["conv"], outputs["conv.0"].relu())  # without dropout
    assert outputs["rnn"].shape == (2, 36, 5)  # the first tensor of its tuple
    assert module.training
    assert not outputs["rnn"].requires_grad
    assert not any(part._forward_hooks for part in module.modules())


def test_networks_of_the_atlas_have_a_penultimate_vector() -> None:
    model = ca.create_model("resnet20_cifar", width=0.5)
    images = torch.randn(2, 3, 32, 32)
    assert ca.visualization.features(model, images)["penultimate"].shape == (2, 32)


def test_what_gives_no_features_is_named() -> None:
    with pytest.raises(UsageError, match="unknown module 'con': the nearest is 'conv'"):
        ca.visualization.features(Own(), IMAGES, ["con"])
    with pytest.raises(UsageError, match="unknown module 'penultimate'"):
        ca.visualization.features(Own(), IMAGES)
    with pytest.raises(UserError, match="unused does not run"):
        ca.visualization.features(Own(), IMAGES, ["unused"])
    with pytest.raises(UsageError, match="expected normalised images, a float tensor"):
        ca.visualization.features(Own(), IMAGES.byte(), ["conv"])


def test_grad_cam_explains_the_logits_of_a_module_with_several_outputs() -> None:
    module = Own()
    for classes in (1, [1, 1], torch.tensor([1, 1])):
        maps = ca.visualization.grad_cam(module, IMAGES, classes, "conv")
        assert maps.shape == (2, 6, 6)
