"""The same weights give the same outputs in another library's network and in ours, and return under the same
names."""

from typing import Any

import pytest
import torch
from helpers.networks import randomize_weights
from helpers.peers import Build, pytorchcv, timm, torchvision
from torch import nn

from convatlas import models
from convatlas.interop.load_weights import load_weights, to_library_state_dict

# our network and its arguments, the library's network, the library, an image size that both take
COUNTERPARTS: list[tuple[str, dict[str, Any], Build, str, int]] = [
    ("alexnet", {"edition": "torchvision"}, torchvision("alexnet"), "torchvision", 95),
    *(
        (f"vgg{n}", {"edition": "torchvision"}, torchvision(f"vgg{n}"), "torchvision", 64)
        for n in (11, 13, 16, 19)
    ),
    *(
        (f"vgg{n}_bn", {"edition": "torchvision"}, torchvision(f"vgg{n}_bn"), "torchvision", 64)
        for n in (11, 13, 16, 19)
    ),
    *(
        (f"resnet{n}", {"edition": "torchvision"}, torchvision(f"resnet{n}"), "torchvision", 75)
        for n in (18, 34, 50, 101, 152)
    ),
    *((f"resnet{n}", {}, pytorchcv(f"resnet{n}"), "pytorchcv", 197) for n in (18, 50)),
    ("resnet20_cifar", {"shortcut": "B"}, pytorchcv("resnet20_cifar10"), "pytorchcv", 29),
    ("resnet56_cifar", {"shortcut": "B"}, pytorchcv("resnet56_cifar10"), "pytorchcv", 32),
    ("resnetv2_50", {"stride_in": "1x1"}, pytorchcv("preresnet50"), "pytorchcv", 197),
    ("resnetv2_152", {}, pytorchcv("preresnet152b"), "pytorchcv", 197),
    ("resnetv2_164_cifar", {"stride_in": "3x3"}, pytorchcv("preresnet164bn_cifar10"), "pytorchcv", 29),
    (
        "googlenet",
        {"edition": "torchvision"},
        torchvision("googlenet", init_weights=False),
        "torchvision",
        95,
    ),
    (
        "inception_v3",
        {"edition": "torchvision"},
        torchvision("inception_v3", init_weights=False),
        "torchvision",
        107,
    ),
    ("inception_v3", {"edition": "torchvision", "aux": False}, timm("inception_v3"), "timm", 107),
    ("bn_inception", {"edition": "pytorchcv"}, pytorchcv("bninception"), "pytorchcv", 224),
    *(
        (f"se_resnet{n}", {"edition": "timm"}, timm(f"legacy_seresnet{n}"), "timm", 75)
        for n in (50, 101, 152)
    ),
    ("senet154", {"edition": "timm"}, timm("legacy_senet154"), "timm", 64),
    ("se_resnet50", {}, pytorchcv("seresnet50"), "pytorchcv", 197),
    ("mobilenet_v1", {}, pytorchcv("mobilenet_w1"), "pytorchcv", 197),
    ("mobilenet_v1", {"edition": "timm"}, timm("mobilenetv1_100"), "timm", 65),
    ("xception", {"edition": "timm"}, timm("legacy_xception"), "timm", 75),
    *(
        (
            "shufflenet_v1",
            {"edition": "pytorchcv", "groups": g},
            pytorchcv(f"shufflenet_g{g}_w1"),
            "pytorchcv",
            197,
        )
        for g in (1, 2, 3, 4, 8)
    ),
    *(
        (
            "shufflenet_v2",
            {"edition": "torchvision", "width": w},
            torchvision(f"shufflenet_v2_x{label}"),
            "torchvision",
            75,
        )
        for w, label in ((0.5, "0_5"), (1.0, "1_0"), (1.5, "1_5"), (2.0, "2_0"))
    ),
]


# The largest take seconds each, and their smaller siblings have the same keys
SLOW = {"vgg11", "vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn"}
SLOW |= {"resnet101", "resnet152", "se_resnet101", "se_resnet152", "resnetv2_152"}
CASES = [
    pytest.param(*case, marks=[pytest.mark.slow] * (case[0] in SLOW), id=f"{case[0]}-{case[3]}")
    for case in COUNTERPARTS
]


@pytest.mark.parametrize(("name", "arguments", "build", "source", "size"), CASES)
def test_the_same_weights_give_the_same_outputs(
    name: str, arguments: dict[str, Any], build: Build, source: str, size: int
) -> None:
    counterpart = randomize_weights(build()).eval()
    state = counterpart.state_dict()
    with torch.device("meta"):
        model = models.create_model(name, **arguments)
    model = model.to_empty(device="cpu").eval()
    assert load_weights(model, state, source).source == source
    x = torch.randn(2, model.in_chans, size, size, generator=torch.Generator().manual_seed(1))
    returned = to_library_state_dict(model, source)
    assert returned.keys() == state.keys()
    assert all(torch.equal(returned[key], state[key]) for key in state)
    with torch.inference_mode():
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-8)):
            expected = counterpart.to(dtype)(x.to(dtype))
            difference = (model.to(dtype)(x.to(dtype)) - expected).abs().max()
            assert difference <= tolerance * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "size", "heads"),
    [
        ("googlenet", 224, ["aux1", "aux2"]),
        ("googlenet", 160, ["aux1", "aux2"]),
        ("inception_v3", 299, ["aux"]),
    ],
)
def test_auxiliary_logits_agree(name: str, size: int, heads: list[str]) -> None:
    counterpart = randomize_weights(torchvision(name, init_weights=False)()).double()
    model = models.create_model(name, edition="torchvision").double()
    load_weights(model, counterpart.state_dict())
    for module in (*counterpart.modules(), *model.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, size, size, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        expected = counterpart.train()(x)._asdict()
        outputs = model.train().training_outputs(x)
    fields = {"logits": "logits", "aux": "aux_logits", "aux1": "aux_logits1", "aux2": "aux_logits2"}
    assert outputs.keys() == {"logits", *heads}
    for head, output in outputs.items():
        logits = expected[fields[head]]
        assert (output - logits).abs().max() <= 1e-8 * logits.abs().max()


def test_inception_v3s_editions_differ_only_in_pooling_at_the_border() -> None:
    """torchvision's average pooling counts the padding."""
    paper = models.create_model("inception_v3", edition="paper", width=0.25, aux=False)
    torchvisions = models.create_model("inception_v3", edition="torchvision", width=0.25, aux=False)
    randomize_weights(paper).eval()
    torchvisions.load_state_dict(paper.state_dict())
    x = torch.randn(2, 3, 107, 107, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert not torch.equal(paper(x), torchvisions.eval()(x))
        for module in torchvisions.modules():
            if isinstance(module, nn.AvgPool2d):
                module.count_include_pad = False
        assert torch.equal(paper(x), torchvisions(x))
