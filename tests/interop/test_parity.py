"""The same weights in another library's network and in ours give the same outputs, and come back under the same names."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.networks import shake
from helpers.peers import peer
from torch import nn

from convatlas import models
from convatlas.interop.load_weights import load_weights, to_library_state_dict

Make = Callable[[], nn.Module]


def torchvision(name: str, **arguments: Any) -> Make:
    return lambda: peer("torchvision").models.get_model(name, weights=None, **arguments)


def timm(name: str, **arguments: Any) -> Make:
    return lambda: peer("timm").create_model(name, **arguments)


def pytorchcv(name: str, **arguments: Any) -> Make:
    def make() -> nn.Module:
        peer("pytorchcv")
        network: nn.Module = importlib.import_module("pytorchcv.model_provider").get_model(name, **arguments)
        return network

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
    ("se_resnet50", {}, pytorchcv("seresnet50"), "pytorchcv", 197),
    ("mobilenet_v1", {}, pytorchcv("mobilenet_w1"), "pytorchcv", 197),
    ("mobilenet_v1", {"edition": "timm"}, timm("mobilenetv1_100"), "timm", 65),
    ("xception", {"edition": "timm"}, timm("legacy_xception"), "timm", 75),
    *(
        ("shufflenet_v1", {"edition": "pytorchcv", "groups": g}, pytorchcv(f"shufflenet_g{g}_w1"), "pytorchcv", 197)
        for g in (1, 2, 3, 4, 8)
    ),
    *(
        ("shufflenet_v2", {"edition": "torchvision", "width": w}, torchvision(f"shufflenet_v2_x{label}"), "torchvision", 75)
        for w, label in ((0.5, "0_5"), (1.0, "1_0"), (1.5, "1_5"), (2.0, "2_0"))
    ),
]


# The largest take seconds each, and their smaller siblings are made of the same rows
SLOW = {"vgg11", "vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn", "resnet101", "resnet152", "se_resnet101", "se_resnet152"}
SLOW |= {"resnetv2_152"}
CASES = [pytest.param(*twin, marks=[pytest.mark.slow] * (twin[0] in SLOW), id=f"{twin[0]}-{twin[3]}") for twin in TWINS]


@pytest.mark.parametrize(("name", "arguments", "make", "source", "size"), CASES)
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
    back, state = to_library_state_dict(ours, source), twin.state_dict()
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("name", "size", "theirs"), [("googlenet", 224, ["aux1", "aux2"]), ("googlenet", 160, ["aux1", "aux2"]), ("inception_v3", 299, ["aux"])]
)
def test_auxiliary_logits_agree_too(name: str, size: int, theirs: list[str]) -> None:
    twin = shake(torchvision(name, init_weights=False)()).double()
    ours = models.create_model(name, edition="torchvision").double()
    load_weights(ours, twin.state_dict())
    for module in (*twin.modules(), *ours.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = twin.train()(x), ours.train().training_outputs(x)
    expected = dict(zip(expected._fields, expected, strict=True))
    names = {"logits": "logits", "aux": "aux_logits", "aux1": "aux_logits1", "aux2": "aux_logits2"}
    assert found.keys() == {"logits", *theirs}
    for head, output in found.items():
        twins = expected[names[head]]
        assert (output - twins).abs().max() <= 1e-8 * twins.abs().max()


def test_average_pooling_that_counts_its_padding_is_all_that_the_edition_of_inception_v3_changes() -> None:
    paper, theirs = (models.create_model("inception_v3", edition=edition, width=0.25, aux=False) for edition in ("paper", "torchvision"))
    shake(paper).eval()
    theirs.load_state_dict(paper.state_dict())
    x = torch.randn(2, 3, 107, 107, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        differ = (paper(x) - theirs.eval()(x)).abs().max()
        for module in theirs.modules():
            if isinstance(module, nn.AvgPool2d):
                module.count_include_pad = False
        assert torch.equal(paper(x), theirs(x))
    assert differ > 0
