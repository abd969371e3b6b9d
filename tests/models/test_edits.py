"""Edits: what each does to every network of the atlas, to a module of the user's own, and to its files."""

import copy
from fnmatch import fnmatch
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import DEEP, HUGE, small_model
from torch import Tensor, nn

import convatlas as ca
from convatlas import edits, models
from convatlas.analysis.trace.meta_copy import copy_to_device
from convatlas.analysis.trace.trace import trace
from convatlas.errors import UsageError
from convatlas.layers.subsampling import Subsampling
from convatlas.layers.weight_norm import WeightNormConv2d
from convatlas.models import Network
from convatlas.models.edits import Edit
from convatlas.models.edits.activations import KINDS

# The networks to which an edit does not apply, and the reason that it gives. All others it changes
LRN = ("alexnet", "zfnet", "zfnet512", "vgg11_lrn", "googlenet", "googlenet_naive")
NO_NORM = "lenet5 alexnet zfnet* vgg1? vgg11_lrn vgg16_1x1 googlenet* fcn* unet"
NO_POOLING = "resnet*_cifar plain*_cifar mobilenet_v1 se_mobilenet_v1"
NO_DROPOUT = "lenet5 bn_inception resnet* plain* se_* mobilenet_v1 shufflenet_*"
DENSE = "fcn* unet"
ODD_CHANNELS = "se_shufflenet_v1 shufflenet_v?"
NORM = "has no normalisation of images"
REFUSALS: list[tuple[Edit, dict[str, str]]] = [
    (edits.RemoveDropout(), {NO_DROPOUT: "every dropout has the rate 0"}),
    (edits.SetDropout(p=0.3), {}),
    (edits.SwapActivation(to="tanh"), {}),
    (edits.SwapActivation(to="prelu"), {}),
    (edits.SwapPooling(to="average"), {NO_POOLING: "no pooling with a window"}),
    (edits.SwapPooling(to="stride"), {NO_POOLING: "no pooling with a window"}),
    (edits.SwapNorm(to="group"), {NO_NORM: NORM, ODD_CHANNELS: "which 8 groups do not divide"}),
    (edits.SwapNorm(to="layer"), {NO_NORM: NORM}),
    (edits.SwapNorm(to="instance"), {NO_NORM: NORM, "inception_v?": "grid of one pixel"}),
    (edits.NormAfterActivation(), {NO_NORM: "no activation takes the output of a normalisation"}),
    (edits.GlobalPoolingHead(kind="max"), {f"lenet5 {DENSE}": "do not go through an nn.Flatten"}),
    (edits.RemoveNorm(), {NO_NORM: NORM}),
]
FAMILIES = ["lenet5", "alexnet", "googlenet", "plain20_cifar", "resnet18", "resnetv2_50"]
FAMILIES += ["se_mobilenet_v1", "vgg11_bn", "fcn8s", "unet"]
DEEPER = ("resnet34", "plain34", "vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn", *HUGE, *DEEP)
DEEPER += tuple(f"{kind}{n}_cifar" for kind in ("resnet", "plain") for n in (32, 44, 56))


def reason(refusals: dict[str, str], name: str) -> str:
    """Why an edit does not apply to the network; "" where it does."""
    reasons = [text for names, text in refusals.items() if any(fnmatch(name, n) for n in names.split())]
    return reasons[0] if reasons else ""


def check_edit(network: Network, edit: Edit, expected: str) -> None:
    if expected:
        with pytest.raises(UsageError, match=expected):
            edits.apply(network, [edit])
    else:
        edits.apply(network, [edit])
        assert network.architecture is not None
        assert network.architecture.edits[-1] == edit


def on_meta(name: str) -> Network:
    with torch.device("meta"):
        return models.create_model(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_edit_changes_a_network_or_says_why_not(name: str) -> None:
    network = on_meta(name)
    for edit, refusals in REFUSALS:
        check_edit(copy_to_device(network, "meta"), edit, reason(refusals, name))
    activation: Any = "scaled_tanh" if name == "lenet5" else "relu"
    same = edits.SwapActivation(to=activation)
    check_edit(network, same, f"touches nothing, since every activation is {activation} already")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in DEEPER else name
        for name in models.list_models()
        if name not in FAMILIES
    ],
)
def test_the_other_networks_are_changed_as_their_families(name: str) -> None:
    network = on_meta(name)
    network.input_shape = None  # without a forward, which their families run
    for edit, refusals in REFUSALS:
        if not edit.needs_forward and "grid" not in reason(refusals, name):
            check_edit(network, edit, reason(refusals, name))
    check_edit(network, edits.RemoveLRN(), "" if name in LRN else "has no local response normalisation")


def test_a_normalisation_of_one_pixel_is_refused() -> None:
    refused = edits.SwapNorm(to="instance")
    check_edit(on_meta("inception_v3"), refused, "aux.conv2.norm has a grid of one pixel")


def first_weights(name: str, *changes: Edit, **arguments: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return small_model(name, edits=changes, **arguments)[0].state_dict()


@pytest.mark.parametrize(
    ("name", "change", "back"),
    [
        ("resnet20_cifar", edits.SwapActivation(to="tanh"), edits.SwapActivation(to="relu")),
        ("se_mobilenet_v1", edits.SwapActivation(to="prelu"), edits.SwapActivation(to="relu")),
        ("lenet5", edits.SwapActivation(to="relu"), edits.SwapActivation(to="scaled_tanh")),
        ("resnet18", edits.SwapNorm(to="group"), edits.SwapNorm(to="batch")),
        ("googlenet", edits.SwapPooling(to="stride"), edits.SwapPooling(to="max")),
        ("alexnet", edits.RemoveDropout(), edits.SetDropout(p=0.5)),
    ],
)
def test_what_is_undone_leaves_the_network_as_it_was(name: str, change: Edit, back: Edit) -> None:
    torch.manual_seed(0)
    plain, images = small_model(name)
    torch.manual_seed(0)
    network, _ = small_model(name, edits=[change, back])
    assert repr(network) == repr(plain)
    weights = plain.state_dict()
    assert network.state_dict().keys() == weights.keys()
    assert all(tensor.equal(weights[key]) for key, tensor in network.state_dict().items())
    assert (
        ca.analyze(network, tuple(images.shape[1:])).rows == ca.analyze(plain, tuple(images.shape[1:])).rows
    )


def test_layers_that_stay_have_the_weights_of_the_seed_without_edits() -> None:
    plain = first_weights("vgg11_bn")
    for edit in (
        edits.SwapActivation(to="elu"),
        edits.SwapNorm(to="layer"),
        edits.RemoveNorm(),
        edits.GlobalPoolingHead(),
    ):
        edited = first_weights("vgg11_bn", edit)
        same = [key for key in edited if key in plain and edited[key].shape == plain[key].shape]
        assert all(edited[key].equal(plain[key]) for key in same)
        assert len(same) > 16


def test_layers_that_an_edit_adds_are_initialised_as_the_papers() -> None:
    torch.manual_seed(0)
    network = models.create_model(
        "alexnet", width=0.25, edits=[edits.GlobalPoolingHead(), edits.LinearAfter(path="conv3")]
    )
    for path in ("fc8", "conv3.linear"):
        layer = network.get_submodule(path)
        assert isinstance(layer.weight, Tensor)
        assert isinstance(layer.bias, Tensor)
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not layer.bias.any()


class Block(nn.Module):
    """A network of a user's, with one activation as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        logits: Tensor = self.fc(F.relu(self.conv2(x)).mean((2, 3)))
        return logits


def test_an_activation_that_is_a_function_is_refused_with_its_place() -> None:
    module = Block()
    before = repr(module)
    with pytest.raises(
        UsageError, match=r"SwapActivation\(to=tanh\) of Block leaves relu in Block, which is"
    ):
        edits.apply(module, [edits.RemoveNorm(), edits.SwapActivation(to="tanh")], input=(3, 12, 12))
    assert repr(module) == before


def test_a_module_of_the_users_own_is_changed_in_place() -> None:
    module = Block().eval()
    x = torch.randn(2, 3, 12, 12)
    edits.apply(module, [edits.RemoveNorm(), edits.LinearAfter(path="act")], input=(3, 12, 12))
    shift, linear = module.bn1, module.act.get_submodule("linear")
    nn.init.normal_(shift.bias)
    maps = F.conv2d(x, module.conv1.weight, shift.bias).relu()
    expected = module.fc(F.relu(module.conv2(linear(maps))).mean((2, 3)))
    assert torch.allclose(module(x), expected, atol=1e-6)
    with pytest.raises(UsageError, match=r"NormAfterActivation\(\) needs the shapes of a forward"):
        edits.apply(Block(), [edits.NormAfterActivation()])


def test_the_activation_comes_before_the_normalisation() -> None:
    module = Block().eval()
    x = torch.randn(2, 3, 12, 12)
    edits.apply(module, [edits.NormAfterActivation()], input=(3, 12, 12))
    norm = module.act
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.normal_(norm.bias)
    expected = module.fc(F.relu(module.conv2(norm(module.conv1(x).relu()))).mean((2, 3)))
    assert torch.allclose(module(x), expected, atol=1e-6)


def test_a_normalisation_before_an_addition_stays() -> None:
    network = models.create_model("resnet20_cifar", edits=[edits.NormAfterActivation()])
    block = network.get_submodule("conv2_x.0")
    kinds = {path: type(layer) for path, layer in block.named_modules()}
    assert kinds["function.conv1.norm"] is nn.ReLU
    assert kinds["function.relu"] is nn.BatchNorm2d
    assert kinds["function.conv2.norm"] is nn.BatchNorm2d
    assert kinds["relu"] is nn.ReLU


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil"),
    [(2, 2, 0, False), (2, 2, 0, True), (3, 2, 0, False), (3, 2, 0, True), (3, 2, 1, False)],
)
def test_subsampling_has_the_poolings_grid(kernel: int, stride: int, padding: int, ceil: bool) -> None:
    pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    subsampling = Subsampling(kernel, stride, padding, ceil)
    for side in range(4, 14):
        x = torch.arange(side * side, dtype=torch.float).view(1, 1, side, side)
        sampled = subsampling(x)
        assert sampled.shape == pool(x).shape
        assert set(sampled.flatten().tolist()) <= set(x.flatten().tolist())


@pytest.mark.parametrize("side", [12, 13])
def test_a_convolution_before_subsampling_has_the_stride_of_the_pooling(side: int) -> None:
    x, weight = torch.randn(1, 2, side, side), torch.randn(3, 2, 3, 3)
    subsampling = Subsampling(3, 2, padding=1)
    strided = F.conv2d(x, weight, stride=2, padding=1)
    assert torch.allclose(subsampling(F.conv2d(x, weight, padding=1)), strided, atol=1e-5)


def test_windows_whose_centre_is_outside_the_image_are_no_subsampling() -> None:
    for kernel, stride, padding, ceil in ((3, 2, 1, True), (2, 2, 1, False), (3, 3, 0, True)):
        with pytest.raises(ValueError, match="centre would be outside the image"):
            Subsampling(kernel, stride, padding, ceil)


def test_weight_normalisation_is_torchs() -> None:
    conv = nn.Conv2d(3, 5, 3)
    ours = nn.Sequential(copy.deepcopy(conv), nn.BatchNorm2d(5))
    edits.apply(ours, [edits.SwapNorm(to="weight")])
    assert isinstance(ours[0], WeightNormConv2d)
    theirs = nn.utils.parametrizations.weight_norm(conv)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        for gain in (ours[0].gain, theirs.parametrizations.weight.original0):
            gain.mul_(torch.arange(1.0, 6.0).view(5, 1, 1, 1))
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    gradients = [
        torch.autograd.grad(y.square().sum(), parameters)
        for y, parameters in (
            (ours(x), [ours[0].weight, ours[0].gain]),
            (theirs(x), [theirs.parametrizations.weight.original1, theirs.parametrizations.weight.original0]),
        )
    ]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_a_strided_projection_computes_the_same_with_normalised_weights() -> None:
    conv = nn.Conv2d(4, 6, 1, stride=2)
    normalised = nn.Sequential(copy.deepcopy(conv), nn.BatchNorm2d(6))
    edits.apply(normalised, [edits.SwapNorm(to="weight")])
    x = torch.randn(2, 4, 9, 9).contiguous(memory_format=torch.channels_last)
    assert torch.allclose(normalised(x), conv(x), atol=1e-6)
    gradients = torch.autograd.grad(normalised(x).square().sum(), [*normalised.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_new_initialisation_renews_the_gains() -> None:
    from convatlas.layers.init import he_normal

    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64))
    edits.apply(network, [edits.SwapNorm(to="weight")])
    network.apply(he_normal)
    conv = network[0]
    assert isinstance(conv, WeightNormConv2d)
    weight = conv.gain * conv.weight / conv.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(weight, conv.weight, atol=1e-6)


@pytest.mark.parametrize("kind", ["average", "max"])
def test_a_pooled_head_has_one_linear_layer_and_slides_over_larger_images(kind: Any) -> None:
    edit = edits.GlobalPoolingHead(kind=kind)
    network, _ = small_model("vgg11", edits=[edit])
    network.eval()
    linear = [path for path, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    assert linear == ["fc8"]
    assert network.get_submodule("fc8").weight.shape == (1000, 128)
    image = torch.randn(1, 3, 64, 64)
    maps = nn.Sequential(*list(network.children())[:21])(image)
    assert maps.dim() == 4
    pooled = maps.mean((2, 3)) if kind == "average" else maps.amax((2, 3))
    assert torch.allclose(network(image), network.get_submodule("fc8")(pooled), atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(ca.models.to_dense(network)(image)[:, :, 0, 0], network(image), atol=1e-4)
        assert ca.models.to_dense(network)(torch.randn(1, 3, 96, 128)).shape == (1, 1000, 2, 3)


def test_auxiliary_heads_are_changed_too() -> None:
    network = models.create_model("googlenet", width=0.25, edits=[edits.SwapActivation(to="tanh")])
    assert type(network.get_submodule("aux1.relu")) is nn.Tanh
    outputs = models.TrainingOutputs(network)
    names = {o.name for call in trace(outputs, (3, 64, 64)).calls for o in call.operations}
    assert "tanh" in names
    assert not {"relu", "relu_"} & names


def test_gates_stay_unless_they_are_named() -> None:
    network = models.create_model("se_mobilenet_v1", width=0.25, edits=[edits.SwapActivation(to="elu")])
    assert type(network.get_submodule("block1.se.sigmoid")) is nn.Sigmoid
    assert type(network.get_submodule("block1.se.relu")) is nn.ELU
    gated = models.create_model(
        "se_mobilenet_v1", width=0.25, edits=[edits.SwapActivation(of="sigmoid", to="tanh")]
    )
    assert type(gated.get_submodule("block1.se.sigmoid")) is nn.Tanh
    assert type(gated.get_submodule("block1.se.relu")) is nn.ReLU


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_activation_trains_in_place_of_batch_norms_relu(kind: Any) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten())
    if kind != "relu":
        edits.apply(network, [edits.SwapActivation(to=kind)], input=(3, 8, 8))
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x).square().sum(), x)
    assert gradient.abs().sum() > 0
    assert gradient.isfinite().all()


def test_a_network_without_edits_is_written_as_before() -> None:
    from convatlas.storage.records import to_json

    assert b"edits" not in to_json(models.get_architecture("resnet18"))


EXAMPLES: list[Edit] = [
    edits.SwapActivation(to="tanh"),
    edits.SwapActivation(to="relu", of="sigmoid"),
    edits.SwapNorm(to="group", groups=4),
    edits.SwapPooling(to="stride"),
    edits.RemoveNorm(),
    edits.NormAfterActivation(),
    edits.RemoveLRN(),
    edits.RemoveDropout(),
    edits.SetDropout(p=0.25),
    edits.LinearAfter(path="conv2_x.0.function.conv1"),
    edits.GlobalPoolingHead(kind="max"),
]


@pytest.mark.parametrize("edit", EXAMPLES, ids=str)
def test_the_text_of_an_edit_is_read_back(edit: Edit) -> None:
    assert edits.parse_edit(str(edit)) == edit
    assert {type(example).__name__ for example in EXAMPLES} == {*edits.EDITS}


def test_spaces_json_and_missing_parentheses_are_understood() -> None:
    assert edits.parse_edit(' SwapNorm( to = "group" , groups = 4 ) ') == edits.SwapNorm(to="group", groups=4)
    assert edits.parse_edit("RemoveNorm") == edits.RemoveNorm()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SwapActivatoin(to=tanh)", "unknown edit 'SwapActivatoin': the nearest is 'SwapActivation'"),
        ("SwapActivation(two=tanh)", "unknown field of SwapActivation 'two': the nearest is 'to'"),
        ("SwapActivation(to=tahn)", "unknown to in SwapActivation 'tahn': the nearest is 'tanh'"),
        ("SwapActivation()", "SwapActivation needs to, as in SwapActivation(to=...)"),
        ("SwapActivation(tanh)", "should give each field as field=value"),
        ("SwapActivation(to=tanh, to=relu)", "gives to twice"),
        ("SwapActivation(to=tanh", "should be a name and its fields, as SwapActivation(to=tanh)"),
        ("__import__('os').system('true')", "unknown edit '__import__': known are SwapActivation"),
        ("SwapNorm(to=group, groups=two)", "groups of SwapNorm should be a whole number, not 'two'"),
        ("SwapNorm(to=group, groups=0)", "groups of SwapNorm are those of to=group, 1 or more, not 0"),
        ("SetDropout(p=1)", "p of SetDropout should be at least 0 and below 1, not 1"),
        ("SetDropout(p=nan)", "p of SetDropout should be a number, not 'nan'"),
        ("RemoveNorm(all=true)", "RemoveNorm has no fields, so no all: leave it out"),
    ],
)
def test_a_wrong_text_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        edits.parse_edit(text)
    assert message in str(error.value)


def test_what_python_gives_is_checked_too() -> None:
    with pytest.raises(UsageError, match="the nearest is 'tanh'"):
        edits.SwapActivation(to="tahn")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="edits should be a list of records"):
        models.create_model("lenet5", edits=edits.SwapActivation(to="relu"))
    with pytest.raises(UsageError, match="expected at most 32"):
        models.create_model("lenet5", edits=[edits.SetDropout(p=0.1)] * 33)
    with pytest.raises(UsageError, match="unknown module of lenet5 'C9': known are C1"):
        models.create_model("lenet5", edits=[edits.LinearAfter(path="C9")])
