"""The same weights in another library's network and in ours give the same outputs, and come back under the same names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peers import peer, shake
from torch import nn

from convatlas import models
from convatlas.interop.weights import export_names, load_weights

Make = Callable[[], nn.Module]


def torchvision(name: str, **arguments: Any) -> Make:
    return lambda: peer("torchvision").models.get_model(name, weights=None, **arguments)


def timm(name: str, **arguments: Any) -> Make:
    return lambda: peer("timm").create_model(name, **arguments)


def pytorchcv(name: str, **arguments: Any) -> Make:
    def make() -> nn.Module:
        peer("pytorchcv")
        from pytorchcv.model_provider import get_model

        return get_model(name, **arguments)

    return make


# ours, the twin, its source, an image size that both take
TWINS: list[tuple[str, dict[str, Any], Make, str, int]] = [
    ("alexnet", {"edition": "torchvision"}, torchvision("alexnet"), "torchvision", 95),
    *((f"vgg{n}", {"edition": "torchvision"}, torchvision(f"vgg{n}"), "torchvision", 64) for n in (11, 13, 16, 19)),
    *((f"vgg{n}_bn", {"edition": "torchvision"}, torchvision(f"vgg{n}_bn"), "torchvision", 64) for n in (11, 13, 16, 19)),
    *((f"resnet{n}", {"edition": "torchvision"}, torchvision(f"resnet{n}"), "torchvision", 75) for n in (18, 34, 50, 101, 152)),
    *((f"resnet{n}", {}, pytorchcv(f"resnet{n}"), "pytorchcv", 197) for n in (18, 50)),
    ("resnet20_cifar", {"shortcut": "B"}, pytorchcv("resnet20_cifar10"), "pytorchcv", 29),
    ("resnet56_cifar", {"shortcut": "B"}, pytorchcv("resnet56_cifar10"), "pytorchcv", 32),
    ("resnetv2_50", {"stride_in": "1x1"}, pytorchcv("preresnet50"), "pytorchcv", 197),
    ("resnetv2_152", {}, pytorchcv("preresnet152b"), "pytorchcv", 197),
    ("resnetv2_164_cifar", {"stride_in": "3x3"}, pytorchcv("preresnet164bn_cifar10"), "pytorchcv", 29),
    ("googlenet", {"edition": "torchvision"}, torchvision("googlenet", init_weights=False), "torchvision", 95),
    ("inception_v3", {"edition": "torchvision"}, torchvision("inception_v3", init_weights=False), "torchvision", 107),
    ("inception_v3", {"edition": "torchvision", "aux": False}, timm("inception_v3"), "timm", 107),
    ("bn_inception", {"edition": "pytorchcv"}, pytorchcv("bninception"), "pytorchcv", 224),
    *((f"se_resnet{n}", {"edition": "timm"}, timm(f"legacy_seresnet{n}"), "timm", 75) for n in (50, 101, 152)),
    ("senet154", {"edition": "timm"}, timm("legacy_senet154"), "timm", 64),
]


@pytest.mark.parametrize(("name", "arguments", "make", "source", "size"), TWINS, ids=[f"{t[0]}-{t[3]}" for t in TWINS])
def test_the_same_weights_give_the_same_outputs(name: str, arguments: dict[str, Any], make: Make, source: str, size: int) -> None:
    twin = shake(make()).eval()
    with torch.device("meta"):
        ours = models.create_model(name, **arguments)
    ours = ours.to_empty(device="cpu").eval()
    assert load_weights(ours, twin.state_dict(), source) == source
    x = torch.randn(2, ours.in_chans, size, size, generator=torch.Generator().manual_seed(1))
    assert isinstance(ours, models.Network)
    with torch.inference_mode():
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-8)):
            expected, found = twin.to(dtype)(x.to(dtype)), ours.to(dtype)(x.to(dtype))
            assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    back, state = export_names(ours, source), twin.state_dict()
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
