"""Weights of another library find their network by themselves and give that library's own outputs, or are
refused with the options that decide."""

import re
from typing import Any

import pytest
import torch
from helpers.networks import randomize_weights
from helpers.peers import Build, pytorchcv, timm, torchvision
from torch import Tensor, nn

from convatlas import models
from convatlas.errors import UsageError, UserError
from convatlas.interop import tensor_names
from convatlas.interop.ambiguous_networks import assumed_exclusions, hidden_arguments
from convatlas.interop.candidates import Request
from convatlas.interop.identify import identify
from convatlas.interop.import_classifier import parse_arguments
from convatlas.interop.load_weights import load_weights, to_library_state_dict
from convatlas.interop.operations import differing_arguments, list_operations
from convatlas.models.resnet_v2 import UNITS

CHOICE = re.compile(r"((?:--\w+ [\w.=]+ ?)+)\(pytorchcv's (\w+)\)")
RESNETS = (50, 101, 152)
LIBRARIES = {"torchvision": torchvision, "timm": timm, "pytorchcv": pytorchcv}

# networks whose names and shapes are those of another network of the same library
AMBIGUOUS_NETWORKS = [
    *(f"{name}{n}{b}" for name in ("resnet", "seresnet", "preresnet") for n in RESNETS for b in ("", "b")),
    "preresnet200",
    "preresnet200b",
]
# every other network of theirs whose tensors have the names of one of ours
NETWORKS = {
    "torchvision": [
        "alexnet",
        *(f"vgg{n}{norm}" for n in (11, 13, 16, 19) for norm in ("", "_bn")),
        *("googlenet", "inception_v3"),
        *(f"resnet{n}" for n in (18, 34, *RESNETS)),
        *(f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")),
        *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    ],
    "timm": [
        *("inception_v3", "legacy_xception", "mobilenetv1_100", "mobilenetv1_125", "legacy_senet154"),
        *(f"resnet{n}" for n in (18, 34, *RESNETS)),
        *(f"legacy_seresnet{n}" for n in RESNETS),
        *("legacy_seresnext50_32x4d", "legacy_seresnext101_32x4d", "resnext50_32x4d", "wide_resnet50_2"),
        *("resnext101_32x4d", "resnext101_64x4d", "wide_resnet101_2"),
    ],
    "pytorchcv": [
        *("resnet18", "resnet34", "bninception"),
        *(f"shufflenet_g{g}_w1" for g in (1, 2, 3, 4, 8)),
        *(f"shufflenet_g{g}_w{width}" for g in (1, 3) for width in ("3d4", "d2", "d4")),
        *(f"mobilenet_w{width}" for width in ("1", "3d4", "d2", "d4")),
        *(f"resnet{n}_{data}" for n in (20, 56, 110) for data in ("cifar10", "cifar100", "svhn")),
        *("preresnet110_cifar10", "preresnet164bn_cifar10", "preresnet164bn_cifar100", "resnet1202_cifar10"),
        *("resnext50_32x4d", "resnext101_32x4d", "seresnext50_32x4d", "sharesnet18", "mobilenet_w1_cub"),
    ],
}
QUICK = {
    "torchvision": ("resnet50", "shufflenet_v2_x0_5", "resnext50_32x4d"),
    "timm": ("inception_v3", "legacy_xception", "legacy_seresnet50", "mobilenetv1_125"),
    "pytorchcv": (
        "bninception",
        "shufflenet_g4_w1",
        "shufflenet_g3_wd4",
        "mobilenet_wd2",
        "resnet20_cifar10",
    ),
}
CASES = [
    pytest.param(
        library, name, marks=[pytest.mark.slow] * (name not in QUICK[library]), id=f"{library}-{name}"
    )
    for library, names in NETWORKS.items()
    for name in names
]


def build_peer(library: str, name: str) -> nn.Module:
    arguments = (
        {"init_weights": False} if name in ("googlenet", "inception_v3") and library == "torchvision" else {}
    )
    build: Build = LIBRARIES[library](name, **arguments)
    return randomize_weights(build()).eval()


def images_for(name: str) -> Tensor:
    is_cifar = "cifar" in name or "svhn" in name
    side = 32 if is_cifar else 224 if name == "bninception" else 197
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    return images.double() if is_cifar else images  # hundreds of layers of random weights overflow in float32


def import_logits(state: dict[str, Tensor], images: Tensor, request: Request) -> Tensor:
    """What `import` would give for these weights. Raises as `identify`."""
    candidate = identify(state, "weights.pth", request)
    model = candidate.network.to_empty(device="cpu").eval()
    load_weights(model, state, candidate.match.source)
    model.to(images.dtype)
    with torch.inference_mode():
        return model(images)  # type: ignore[no-any-return]


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("library", "name"), CASES)
def test_a_file_gives_its_librarys_own_logits_or_is_refused(library: str, name: str) -> None:
    peer = build_peer(library, name)
    images = images_for(name)
    try:
        logits = import_logits(peer.state_dict(), images, Request())
    except UserError as error:
        assert re.search("resnext|wide_resnet|preresnet110", name), error  # those that the atlas lacks
        return
    with torch.inference_mode():
        assert relative_difference(logits, peer.to(images.dtype)(images)) < 1e-4


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("resnet50b", "seresnet50")))
        for name in AMBIGUOUS_NETWORKS
    ],
)
def test_ambiguous_networks_are_refused_until_the_stride_is_given(name: str) -> None:
    """pytorchcv's networks of equal names and shapes: `resnet50b` has the stride in another convolution. Each
    option that the refusal names gives the logits of the network that it names, and of no other."""
    peer = build_peer("pytorchcv", name)
    images = images_for(name)
    with torch.inference_mode():
        expected = peer(images)
    with pytest.raises(UsageError, match="equal names and shapes that differ in stride") as refusal:
        identify(peer.state_dict(), "weights.pth", Request())
    choices = {network: options for options, network in CHOICE.findall(str(refusal.value))}
    stem = name.removesuffix("b")
    assert choices.keys() == {stem, f"{stem}b"}
    for network, options in choices.items():
        logits = import_logits(peer.state_dict(), images, request_of(options))
        assert (relative_difference(logits, expected) < 1e-4) == (network == name)


def request_of(options: str) -> Request:
    """The request of a command line's `--edition E --set KEY=VALUE`."""
    words = options.split()
    pairs = list(zip(words[::2], words[1::2], strict=True))
    options_by_name = dict(pairs)
    return Request(
        options_by_name.get("--model"),
        options_by_name.get("--edition"),
        parse_arguments([value for option, value in pairs if option == "--set"]),
    )


def test_naming_the_network_does_not_decide_between_ambiguous_networks() -> None:
    state = build_peer("pytorchcv", "resnet50b").state_dict()
    with pytest.raises(
        UsageError, match=r"say --edition paper \(pytorchcv's resnet50\) or --edition torchvis"
    ):
        identify(state, "resnet50b.pth", Request(model="resnet50"))


@pytest.mark.parametrize("name", ["resnetblur18", "resnetaa50", "resnetblur50"])
def test_ambiguous_networks_that_the_atlas_lacks_are_named_as_an_assumption(name: str) -> None:
    with torch.device("meta"):
        state = timm(name)().state_dict()
    candidate = identify(state, "weights.pth", Request())
    assert name in " ".join(assumed_exclusions(candidate.match.source, candidate.architecture.name))


@pytest.mark.parametrize(
    ("name", "arguments", "source", "request_", "expected"),
    [
        ("resnet18", {"num_classes": 7, "in_chans": 1}, "timm", {}, {"num_classes": 7, "in_chans": 1}),
        ("resnet18", {"width": 0.5}, "torchvision", {}, {"width": 0.5}),
        ("vgg11", {"image_size": 96, "width": 0.25}, "torchvision", {"size": 96}, {"image_size": 96}),
        (
            "vgg11_bn",
            {"image_size": (64, 96), "width": 0.25, "num_classes": 3},
            "torchvision",
            {"arguments": {"image_size": (64, 96)}},
            {"image_size": (64, 96), "width": 0.25},
        ),
        (
            "shufflenet_v1",
            {"edition": "pytorchcv", "groups": 8, "width": 0.5},
            "pytorchcv",
            {},
            {"groups": 8},
        ),
        (
            "se_resnet50",
            {"reduction": 8, "stride_in": "1x1"},
            "pytorchcv",
            {"arguments": {"stride_in": "1x1"}},
            {"reduction": 8},
        ),
        ("mobilenet_v1", {"width": 0.3}, "pytorchcv", {"arguments": {"width": 0.3}}, {"width": 0.3}),
    ],
)
def test_shapes_show_classes_channels_width_and_groups(
    name: str, arguments: dict[str, Any], source: str, request_: dict[str, Any], expected: dict[str, Any]
) -> None:
    with torch.device("meta"):
        model = models.create_model(name, **arguments)
    candidate = identify(to_library_state_dict(model, source), "weights.pth", Request(**request_))
    assert candidate.match.exact
    shown = candidate.architecture.arguments
    assert {key: shown[key] for key in expected} == expected
    assert candidate.architecture.name == name


@pytest.mark.parametrize(
    ("model", "request_", "message"),
    [
        (
            ("vgg11_bn", {"image_size": 96, "width": 0.5}),
            {},
            "fits an image_size of 96: say --set image_size=96",
        ),
        (
            ("alexnet", {}),
            {"model": "resnet18"},
            "fits no edition of resnet18, but alexnet: leave out --model",
        ),
        (
            ("alexnet", {}),
            {"arguments": {"groups": 2}},
            "cannot be built with groups=2: correct --edition or",
        ),
        (("alexnet", {}), {"edition": "timm"}, "cannot be built with edition timm: correct --edition or"),
        (("vgg11", {"width": 0.25}), {}, r"differ in .*: say --edition|operations .*--model vgg11_lrn"),
    ],
)
def test_what_does_not_fit_is_answered_with_what_to_say(
    model: tuple[str, dict[str, Any]], request_: dict[str, Any], message: str
) -> None:
    name, arguments = model
    with torch.device("meta"):
        state = models.create_model(name, edition="paper", **arguments).state_dict()
    with pytest.raises(UserError, match=message) as error:
        identify(state, "weights.pth", Request(**request_))
    assert "\n" not in str(error.value)


# every argument of the atlas that changes what a network computes and is not a size, with values to try
VALUES: dict[str, tuple[Any, ...]] = {
    "unit": tuple(UNITS),
    "shortcut": ("A", "B", "C"),
    "stride_in": ("1x1", "3x3"),
    "stem": ("3x3", "7x7"),
    "field": (299, 151, 79),
    "aux_norm": (True, False),
    "excitation_bias": (True, False),
    "groups": (1, 2, 3, 4, 8),
}


@pytest.mark.parametrize(
    "name",
    [
        *("resnet20_cifar", "inception_v3", "se_resnet50"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *("resnet18", "resnetv2_50", "resnetv2_110_cifar", "resnetv2_164_cifar"),
                *("inception_v2", "senet154", "shufflenet_v1"),
            )
        ),
    ],
)
def test_an_argument_that_tensors_do_not_show_is_listed_as_hidden(name: str) -> None:
    """Else a state dict of the atlas's own names would be loaded into a network that computes another
    thing."""
    size = models.get_entry(name).input[1:]
    defaults = models.get_entry(name).default_arguments()
    listed = hidden_arguments("convatlas", name)
    default = build_small(name)
    assert default is not None
    for argument, values in VALUES.items():
        for value in values if argument in defaults else ():
            model = build_small(name, **{argument: value})
            if model is None or shapes(model) != shapes(default):
                continue
            computes_the_same = not differing_arguments(
                list_operations(model, {}, size), list_operations(default, {}, size)
            )
            assert computes_the_same or value in listed[argument]


def build_small(name: str, **arguments: Any) -> models.Network | None:
    try:
        with torch.device("meta"):
            return models.create_model(name, width=0.25, **arguments)
    except UsageError:
        return None


def shapes(model: models.Network) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in model.state_dict().items()}


def test_tensors_of_no_network_are_refused() -> None:
    with pytest.raises(UserError, match="has the tensor names of no network of the atlas"):
        identify({"layer.weight": torch.zeros(1)}, "weights.pth", Request())


def test_the_index_of_names_lists_every_network_under_every_librarys_names() -> None:
    """Fails when a network or a mapping is new: run scripts/tensor_names.py."""
    listed = [variant for variants in tensor_names.read_index().values() for variant in variants]
    expected = [variant for name in models.list_models() for variant in tensor_names.all_variants(name)]
    assert sorted(map(repr, listed)) == sorted(map(repr, expected)), "run scripts/tensor_names.py"


@pytest.mark.parametrize("name", ["resnet18", "inception_v3", "vgg11", "mobilenet_v1", "se_resnet50"])
def test_the_index_of_names_is_that_of_the_networks(name: str) -> None:
    index = tensor_names.read_index()
    for key, variants in tensor_names.build_index([name]).items():
        assert all(variant in index[key] for variant in variants), "run scripts/tensor_names.py"


@pytest.mark.slow
def test_the_index_of_names_is_that_of_all_networks() -> None:
    assert tensor_names.build_index(models.list_models()) == tensor_names.read_index()
