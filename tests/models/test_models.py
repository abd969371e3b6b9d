"""What every network of the atlas promises, whatever its paper."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import DEEP, HUGE, settle, shake, small
from torch import nn

from convatlas import analysis, models
from convatlas.errors import UsageError
from convatlas.models import Network
from convatlas.runtime.compilation import can_compile

NAMES = models.list_models()
DENSE = [name for name in NAMES if models.get_entry(name).task != "classification"]  # these learn an image by heart in test_dense.py
FAMILIES = ["lenet5", "alexnet", "zfnet", "vgg16_bn", "googlenet", "bn_inception", "inception_v3", "resnet18", "resnetv2_50", "se_resnet50"]
FAMILIES += ["mobilenet_v1", "xception", "shufflenet_v1", "shufflenet_v2", "fcn8s", "unet"]


def quick(names: list[str], slow: tuple[str, ...] = HUGE) -> list[Any]:
    """The slow ones show what their shallower siblings show too: `make test-all` runs them."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


def with_editions(slow: tuple[str, ...] = HUGE) -> list[Any]:
    pairs = [(name, edition) for name in NAMES for edition in models.editions(name)]
    return [pytest.param(*pair, marks=pytest.mark.slow) if pair[0] in slow else pair for pair in pairs]


def on_meta(name: str, **arguments: Any) -> Network:
    with torch.device("meta"):
        return models.create_model(name, **arguments).eval()


def line(golden: dict[str, Any]) -> str:
    parts = [golden["model"], golden.get("edition"), *(f"{k}={v}" for k, v in golden["arguments"].items()), golden["input"][1]]
    return " ".join(str(part) for part in parts if part)


@pytest.mark.parametrize("golden", models.golden(), ids=line)
def test_parameters_and_multiply_adds_are_the_golden_ones(golden: dict[str, Any]) -> None:
    model = on_meta(golden["model"], edition=golden.get("edition", "paper"), **golden["arguments"])
    report = analysis.analyze(model, tuple(golden["input"]))
    assert (report.params, report.macs) == (golden["params"], golden["macs"])


def test_every_network_has_its_golden_line_as_the_paper_prints_it() -> None:
    assert {line["model"] for line in models.golden()} == {*models.list_models()}
    for name in models.list_models():
        assert models.counts(name)["input"] == list(models.get_entry(name).input)


def test_every_name_of_the_lineage_is_here() -> None:
    numbers = {
        "vgg": ["11", "11_lrn", "13", "16_1x1", "16", "19", "11_bn", "13_bn", "16_bn", "19_bn"],
        "resnet": [*["18", "34", "50", "101", "152"], *(f"{n}_cifar" for n in (20, 32, 44, 56, 110, 1202))],
        "plain": ["18", "34", *(f"{n}_cifar" for n in (20, 32, 44, 56, 110))],
        "resnetv2_": ["50", "101", "152", "200", "110_cifar", "164_cifar", "1001_cifar"],
        "se_": ["resnet50", "resnet101", "resnet152", "bn_inception", "mobilenet_v1", "shufflenet_v1"],
        "fcn": ["32s", "16s", "8s"],
        "": [
            "lenet5",
            "alexnet",
            "zfnet",
            "zfnet512",
            "googlenet",
            "googlenet_naive",
            "bn_inception",
            "inception_v2",
            "inception_v3",
            "senet154",
            "mobilenet_v1",
        ],
    }
    numbers[""] += ["xception", "shufflenet_v1", "shufflenet_v2", "unet"]
    assert sorted(models.list_models()) == sorted(family + number for family, members in numbers.items() for number in members)


@pytest.mark.parametrize(("name", "edition"), with_editions(slow=()))
def test_the_arguments_of_every_network_are_there_in_every_edition(name: str, edition: str) -> None:
    arguments = models.get_architecture(name, edition).arguments
    assert list(arguments)[:5] == ["num_classes", "in_chans", "width", "image_size", "dropout"]
    assert (arguments["width"], arguments["image_size"]) == (1.0, None)


@pytest.mark.parametrize(("name", "edition"), with_editions())
@pytest.mark.parametrize("arguments", [{}, {"num_classes": 7, "in_chans": 2}], ids=["as printed", "7 classes, 2 channels"])
def test_every_parameter_receives_a_finite_gradient(name: str, edition: str, arguments: dict[str, Any]) -> None:
    model, images = small(name, edition=edition, **arguments)
    shake(model).double().train()
    outputs = model.training_outputs(images.double())
    classes = arguments.get("num_classes", models.get_entry(name).arguments(edition)["num_classes"])
    assert {output.shape[:2] for output in outputs.values()} == {(3, classes)}
    sum(output.square().sum() for output in outputs.values()).backward()  # type: ignore[union-attr]
    without = [path for path, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert not without


@pytest.mark.parametrize("width", [0.001, 0.26, 0.3, 1 / 3, 0.7])
def test_alexnets_groups_share_out_their_channels_at_any_width(width: float) -> None:
    model = on_meta("alexnet", width=width)
    assert all(layer.in_channels % 2 == 0 for layer in (model.conv2, model.conv4, model.conv5) if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize("name", quick(NAMES))
def test_logits_are_what_comes_in_train_and_in_eval_mode(name: str) -> None:
    model, images = small(name)
    trained, evaluated = model.train()(images), model.eval()(images)
    assert isinstance(trained, torch.Tensor)
    assert trained.shape == evaluated.shape
    assert torch.equal(evaluated, model.training_outputs(images)["logits"])


@pytest.mark.parametrize("name", quick(NAMES))
def test_a_seed_gives_one_initialisation_and_weights_round_trip(name: str) -> None:
    def make(seed: int) -> Network:
        torch.manual_seed(seed)
        return small(name)[0]

    a, b, c = make(1).state_dict(), make(1).state_dict(), make(2)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], value) for key, value in c.state_dict().items())
    c.load_state_dict(a)
    assert all(torch.equal(a[key], value) for key, value in c.state_dict().items())


@pytest.mark.parametrize("name", models.list_models())
def test_half_the_width_halves_every_channel_count(name: str) -> None:
    def channels(model: nn.Module) -> dict[str, int]:
        layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)}
        return {path: layer.weight.shape[isinstance(layer, nn.ConvTranspose2d)] for path, layer in layers.items()}

    whole, half = (on_meta(name, width=width, num_classes=6) for width in (1.0, 0.5))
    fixed = {6, 84 if name == "lenet5" else 6}  # classes; a code has 7x12 pixels
    all_printed = channels(whole)
    for path, found in channels(half).items():
        printed = all_printed[path]
        if printed in fixed or "upscore" in path or "shufflenet" in name:
            continue
        layer = whole.get_submodule(path)
        group = layer.groups if isinstance(layer, nn.Conv2d) else 1
        assert abs(2 * found - printed) <= (1 if group in (1, printed) else group), path


@pytest.mark.parametrize("name", ["lenet5", "resnet20_cifar", "mobilenet_v1", "resnetv2_50", "bn_inception"])
def test_dropout_is_off_where_the_paper_has_none_and_acts_when_asked_for(name: str) -> None:
    plain, images = small(name)
    dropping, _ = small(name, dropout=0.5)
    assert torch.allclose(plain(images), plain(images))
    assert not torch.allclose(dropping(images), dropping(images))


@pytest.mark.parametrize("name", ["googlenet", "googlenet_naive", "inception_v2", "inception_v3"])
def test_auxiliary_heads_give_named_outputs_at_any_size_and_can_be_left_out(name: str) -> None:
    model, images = small(name)
    heads = {"aux"} if "v" in name.split("_")[-1] and name.startswith("inception") else {"aux1", "aux2"}
    assert model.training_outputs(images).keys() == {"logits", *heads}
    without, _ = small(name, aux=False)
    assert without.training_outputs(images).keys() == {"logits"}
    assert not [path for path, _ in without.named_parameters() if path.startswith("aux")]
    without.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(without.eval()(images), model.eval()(images))


@pytest.mark.parametrize("name", quick(NAMES, HUGE + DEEP))
def test_it_exports_with_a_free_batch(name: str) -> None:
    model, images = small(name)
    settle(model, images)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)).module()
    torch.testing.assert_close(exported(images[:2]), model(images[:2]))


@pytest.mark.parametrize("name", [name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_it_compiles(name: str) -> None:
    model, images = small(name)
    settle(model, images)
    with torch.inference_mode():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own compiler warns of torch's own parts
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_inductor_gives_the_same_outputs(name: str) -> None:
    model, images = small(name)
    shake(model).eval()
    with torch.inference_mode():
        expected = model(images)
        found = torch.compile(model)(images)
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    torch._dynamo.reset()


# At a quarter of the width Gaussians of 0.01 let no signal through, and the deep ones of Glorot's too little for a quick test
FAINT = ("alexnet", "zfnet", "zfnet512", "vgg16_1x1", "vgg16", "vgg19")
HARD = ("plain56_cifar", "plain110_cifar", *HUGE)  # that these are hard to train is what their papers show


@pytest.mark.parametrize("name", quick([name for name in NAMES if name not in HARD and name not in DENSE], HUGE + DEEP))
def test_it_learns_eight_images_by_heart(name: str) -> None:
    torch.manual_seed(0)
    model, images = small(name, num_classes=4, dropout=0.0)
    if name in FAINT:
        shake(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images, labels = torch.randn(8, *images.shape[1:]), torch.arange(8) % 4
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-3)
    for _ in range(150):
        outputs = model.training_outputs(images)
        loss = sum(F.cross_entropy(output, labels) for output in outputs.values()) / len(outputs)
        assert isinstance(loss, torch.Tensor)
        if loss < 0.2 and (outputs["logits"].argmax(1) == labels).all():
            return
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    pytest.fail(f"loss is still {loss:.3f}")


@pytest.mark.parametrize(("name", "edition"), with_editions())
def test_an_image_too_small_is_refused_by_the_smallest_size_and_the_layer_that_needs_it(name: str, edition: str) -> None:
    model = on_meta(name, edition=edition)
    if model.size is not None:
        side = model.size[0] - 1
        with pytest.raises(
            UsageError, match=rf"for images of {model.size[0]}x{model.size[1]}, not {side}x{side}: .* image_size=\({side}, {side}\)"
        ):
            model(torch.empty(1, model.in_chans, side, side, device="meta"))
        return
    smallest, layer = model.smallest, model.layer
    assert model(torch.empty(1, model.in_chans, smallest, smallest, device="meta")).shape[0] == 1
    if smallest == 1:
        return
    below = torch.empty(1, model.in_chans, smallest - 1, smallest - 1, device="meta")
    with pytest.raises(UsageError, match=f"{name} needs images of at least {smallest}x{smallest}, so that {layer} has a grid"):
        model(below)
    reached: list[str] = []
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, path=path: reached.append(path))
    model.smallest = 0
    with pytest.raises((RuntimeError, UsageError)):  # and indeed it could not have been computed
        model(below)
    assert reached[-1].startswith(layer) or type(model).check is not Network.check


@pytest.mark.parametrize(
    ("name", "layer", "smallest"), [("lenet5", "C5", 16), ("alexnet", "pool5", 67), ("zfnet", "pool5", 47), ("vgg16", "pool5", 32)]
)
def test_a_network_of_one_size_can_be_built_for_any_that_leaves_a_grid(name: str, layer: str, smallest: int) -> None:
    model = on_meta(name, image_size=smallest)
    assert model(torch.empty(2, model.in_chans, smallest, smallest, device="meta")).shape[0] == 2
    with pytest.raises(UsageError, match=f"{name.rstrip('16')} needs images of at least {smallest}x{smallest}, so that {layer} has a grid"):
        on_meta(name, image_size=(200, smallest - 1))


@pytest.mark.parametrize("name", models.list_models())
def test_wrong_channels_and_ranks_are_named(name: str) -> None:
    model = on_meta(name, in_chans=3)
    with pytest.raises(UsageError, match=rf"{name} was built for images of 3 channels, not 4: convert them, or build it with in_chans=4"):
        model(torch.empty(2, 4, 64, 64, device="meta"))
    with pytest.raises(UsageError, match=rf"{name} takes images \(n, 3, height, width\), not a tensor of shape \(3, 64, 64\)"):
        model.training_outputs(torch.empty(3, 64, 64, device="meta"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet21_cifar", {}, "unknown network 'resnet21_cifar': the nearest is"),
        ("lenet5", {"shortcut": "A"}, "unknown argument of lenet5 'shortcut'"),
        ("plain20_cifar", {"shortcut": "A"}, "unknown argument of plain20_cifar"),
        ("resnet20_cifar", {"shortcut": "D"}, "expected A, B or C"),
        ("resnet20_cifar", {"edition": "torchvision"}, "known are paper"),
        ("resnetv2_110_cifar", {"unit": "gating"}, "unknown unit 'gating': the nearest is"),
        ("shufflenet_v1", {"groups": 5}, "Table 1 has 1, 2, 3, 4"),
        ("inception_v3", {"field": 224}, "Table 2 has 299, 151 and 79"),
        ("fcn8s", {"backbone": "alexnet"}, "fcn32s"),
        ("lenet5", {"num_classes": 0}, "greater than 0"),
        ("lenet5", {"num_classes": 2.5}, "num_classes of lenet5 should be a whole number, not 2.5"),
        ("lenet5", {"in_chans": True}, "in_chans of lenet5 should be a whole number, not True"),
        ("lenet5", {"width": "1"}, "width of lenet5 should be a number, not '1'"),
        ("lenet5", {"width": float("nan")}, "greater than 0"),
        ("lenet5", {"image_size": "32"}, "image_size should be a side or"),
        ("resnet50", {"image_size": (32, 32, 3)}, "image_size should be a side or"),
        ("googlenet", {"aux": 1}, "aux of googlenet should be true or false, not 1"),
        ("se_resnet50", {"reduction": 0}, "greater than 0"),
        ("resnet50", {"shortcut": 2}, "should be A, B or C, not 2"),
        ("lenet5", {"dropout": 1.0}, "below 1"),
        ("vgg16", {"image_size": 0}, "image_size should be"),
        ("vgg16", {"width": 1e300}, "width of vgg16 should be at most 64"),
        ("lenet5", {"width": 1e9}, "width of lenet5 should be at most 64"),
        ("lenet5", {"num_classes": 10**12}, "num_classes of lenet5 should be at most 1,000,000"),
        ("resnet50", {"image_size": (1 << 40, 32)}, "image_size of resnet50 should be at most 16,384 a side"),
        ("vgg16", {"image_size": (224, -1)}, "image_size should be"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_sentence(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        models.create_model(name, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
