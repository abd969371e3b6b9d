"""The contract of every network of the atlas."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import DEEP, HUGE, calibrate_batch_norm, randomize_weights, small_model
from torch import nn

from convatlas import analysis, models
from convatlas.analysis.trace.trace import trace
from convatlas.errors import UsageError
from convatlas.models import Network
from convatlas.runtime.compilation import can_compile

NAMES = models.list_models()
# test_dense.py overfits these
DENSE = [name for name in NAMES if models.get_entry(name).task != "classification"]
FAMILIES = ["lenet5", "alexnet", "zfnet", "vgg16_bn", "googlenet", "bn_inception", "inception_v3", "resnet18"]
FAMILIES += ["resnetv2_50", "se_resnet50", "mobilenet_v1", "xception", "shufflenet_v1", "shufflenet_v2"]
FAMILIES += ["fcn8s", "unet"]


def mark_slow(names: list[str], slow: tuple[str, ...] = HUGE) -> list[Any]:
    """The names as parameters. Shallower networks test the same as the slow ones: only `make test-all` runs
    these."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


def with_editions(slow: tuple[str, ...] = HUGE) -> list[Any]:
    pairs = [(name, edition) for name in NAMES for edition in models.editions(name)]
    return [pytest.param(*pair, marks=pytest.mark.slow) if pair[0] in slow else pair for pair in pairs]


def on_meta(name: str, **arguments: Any) -> Network:
    with torch.device("meta"):
        return models.create_model(name, **arguments).eval()


def golden_id(golden: dict[str, Any]) -> str:
    arguments = [f"{name}={value}" for name, value in golden["arguments"].items()]
    words = [golden["model"], golden.get("edition"), *arguments, golden["input"][1]]
    return " ".join(str(word) for word in words if word)


@pytest.mark.parametrize("golden", models.golden_records(), ids=golden_id)
def test_parameters_and_multiply_adds_are_the_golden_ones(golden: dict[str, Any]) -> None:
    model = on_meta(golden["model"], edition=golden.get("edition", "paper"), **golden["arguments"])
    report = analysis.analyze(model, tuple(golden["input"]))
    assert (report.params, report.macs) == (golden["params"], golden["macs"])


@pytest.mark.parametrize("name", ["lenet5", "resnet20_cifar", "resnet50", "se_shufflenet_v1"])
def test_every_activation_is_a_module(name: str) -> None:
    activations = {"relu", "hardtanh", "tanh", "sigmoid"}
    calls = trace(on_meta(name, width=0.25), models.get_entry(name).input).calls
    functional = {call.path: activations & {o.name.strip("_") for o in call.operations} for call in calls}
    assert any(functional.values())
    assert not [call.path for call in calls if functional[call.path] and not call.is_leaf]


def test_every_network_has_a_golden_record_with_the_papers_input() -> None:
    assert {record["model"] for record in models.golden_records()} == {*models.list_models()}
    for name in models.list_models():
        assert models.golden_counts(name)["input"] == list(models.get_entry(name).input)


def test_the_networks_are_those_of_the_papers() -> None:
    suffixes = {
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
    suffixes[""] += ["xception", "shufflenet_v1", "shufflenet_v2", "unet"]
    names = [family + suffix for family, family_suffixes in suffixes.items() for suffix in family_suffixes]
    assert sorted(models.list_models()) == sorted(names)


@pytest.mark.parametrize(("name", "edition"), with_editions(slow=()))
def test_every_edition_has_the_arguments_of_every_network(name: str, edition: str) -> None:
    arguments = models.get_architecture(name, edition).arguments
    assert list(arguments)[:5] == ["num_classes", "in_chans", "width", "image_size", "dropout"]
    assert (arguments["width"], arguments["image_size"]) == (1.0, None)


@pytest.mark.parametrize(("name", "edition"), with_editions())
@pytest.mark.parametrize(
    "arguments", [{}, {"num_classes": 7, "in_chans": 2}], ids=["as printed", "7 classes, 2 channels"]
)
def test_every_parameter_receives_a_finite_gradient(
    name: str, edition: str, arguments: dict[str, Any]
) -> None:
    model, images = small_model(name, edition=edition, **arguments)
    randomize_weights(model).double().train()
    outputs = model.training_outputs(images.double())
    defaults = models.get_entry(name).default_arguments(edition)
    num_classes = arguments.get("num_classes", defaults["num_classes"])
    assert {output.shape[:2] for output in outputs.values()} == {(3, num_classes)}
    sum(output.square().sum() for output in outputs.values()).backward()  # type: ignore[union-attr]
    missing = [
        path
        for path, p in model.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert not missing


@pytest.mark.parametrize("width", [0.001, 0.26, 0.3, 1 / 3, 0.7])
def test_alexnets_groups_divide_its_channels_at_any_width(width: float) -> None:
    model = on_meta("alexnet", width=width)
    grouped = [layer for layer in (model.conv2, model.conv4, model.conv5) if isinstance(layer, nn.Conv2d)]
    assert all(layer.in_channels % 2 == 0 for layer in grouped)


@pytest.mark.parametrize("name", mark_slow(NAMES))
def test_the_output_is_logits_in_train_and_in_eval_mode(name: str) -> None:
    model, images = small_model(name)
    train_logits = model.train()(images)
    eval_logits = model.eval()(images)
    assert isinstance(train_logits, torch.Tensor)
    assert train_logits.shape == eval_logits.shape
    assert torch.equal(eval_logits, model.training_outputs(images)["logits"])


@pytest.mark.parametrize("name", mark_slow(NAMES))
def test_a_seed_fixes_the_initialisation_and_weights_round_trip(name: str) -> None:
    def make(seed: int) -> Network:
        torch.manual_seed(seed)
        return small_model(name)[0]

    a, b, c = make(1).state_dict(), make(1).state_dict(), make(2)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], value) for key, value in c.state_dict().items())
    c.load_state_dict(a)
    assert all(torch.equal(a[key], value) for key, value in c.state_dict().items())


@pytest.mark.parametrize("name", models.list_models())
def test_half_the_width_halves_every_channel_count(name: str) -> None:
    def channels(model: nn.Module) -> dict[str, int]:
        return {
            path: layer.weight.shape[isinstance(layer, nn.ConvTranspose2d)]
            for path, layer in model.named_modules()
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        }

    full_width, half_width = (on_meta(name, width=width, num_classes=6) for width in (1.0, 0.5))
    fixed = {6, 84 if name == "lenet5" else 6}  # classes; a code has 7x12 pixels
    printed_channels = channels(full_width)
    for path, halved in channels(half_width).items():
        printed = printed_channels[path]
        if printed in fixed or "upscore" in path or "shufflenet" in name:
            continue
        layer = full_width.get_submodule(path)
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        assert abs(2 * halved - printed) <= (1 if groups in (1, printed) else groups), path


@pytest.mark.parametrize("name", ["lenet5", "resnet20_cifar", "mobilenet_v1", "resnetv2_50", "bn_inception"])
def test_dropout_is_off_by_default_where_the_paper_has_none(name: str) -> None:
    default, images = small_model(name)
    with_dropout, _ = small_model(name, dropout=0.5)
    assert torch.allclose(default(images), default(images))
    assert not torch.allclose(with_dropout(images), with_dropout(images))


@pytest.mark.parametrize("name", ["googlenet", "googlenet_naive", "inception_v2", "inception_v3"])
def test_auxiliary_heads_give_named_outputs_and_can_be_left_out(name: str) -> None:
    model, images = small_model(name)
    heads = {"aux"} if "v" in name.split("_")[-1] and name.startswith("inception") else {"aux1", "aux2"}
    assert model.training_outputs(images).keys() == {"logits", *heads}
    without, _ = small_model(name, aux=False)
    assert without.training_outputs(images).keys() == {"logits"}
    assert not [path for path, _ in without.named_parameters() if path.startswith("aux")]
    without.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(without.eval()(images), model.eval()(images))


@pytest.mark.parametrize("name", mark_slow(NAMES, HUGE + DEEP))
def test_it_exports_with_a_free_batch(name: str) -> None:
    model, images = small_model(name)
    calibrate_batch_norm(model, images)
    exported = torch.export.export(
        model, (images,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)
    ).module()
    torch.testing.assert_close(exported(images[:2]), model(images[:2]))


@pytest.mark.parametrize(
    "name", [name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_it_compiles(name: str) -> None:
    model, images = small_model(name)
    calibrate_batch_norm(model, images)
    with torch.inference_mode():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler warns about torch's own code
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_inductor_gives_the_same_outputs(name: str) -> None:
    model, images = small_model(name)
    randomize_weights(model).eval()
    with torch.inference_mode():
        expected = model(images)
        logits = torch.compile(model)(images)
    assert (logits - expected).abs().max() < 1e-3 * expected.abs().max()
    torch._dynamo.reset()


# At a quarter of the width the signal vanishes with Gaussians of 0.01, and with Glorot's in the deep networks
WEAK_SIGNAL = ("alexnet", "zfnet", "zfnet512", "vgg16_1x1", "vgg16", "vgg19")
HARD_TO_TRAIN = ("plain56_cifar", "plain110_cifar", *HUGE)  # as their papers show
TRAINABLE = [name for name in NAMES if name not in HARD_TO_TRAIN and name not in DENSE]


@pytest.mark.parametrize("name", mark_slow(TRAINABLE, HUGE + DEEP))
def test_it_overfits_eight_images(name: str) -> None:
    torch.manual_seed(0)
    model, images = small_model(name, num_classes=4, dropout=0.0)
    if name in WEAK_SIGNAL:
        randomize_weights(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = torch.randn(8, *images.shape[1:])
    labels = torch.arange(8) % 4
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
def test_an_image_too_small_is_refused_with_the_smallest_size(name: str, edition: str) -> None:
    model = on_meta(name, edition=edition)
    if model.fixed_size is not None:
        height, width = model.fixed_size
        side = height - 1
        message = rf"for images of {height}x{width}, not {side}x{side}: .* image_size=\({side}, {side}\)"
        with pytest.raises(UsageError, match=message):
            model(torch.empty(1, model.in_chans, side, side, device="meta"))
        return
    min_size, layer = model.min_size, model.min_size_layer
    assert model(torch.empty(1, model.in_chans, min_size, min_size, device="meta")).shape[0] == 1
    if min_size == 1:
        return
    too_small = torch.empty(1, model.in_chans, min_size - 1, min_size - 1, device="meta")
    message = f"{name} needs images of at least {min_size}x{min_size}, so that {layer} has a grid"
    with pytest.raises(UsageError, match=message):
        model(too_small)
    reached: list[str] = []
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, path=path: reached.append(path))
    model.min_size = 0
    with pytest.raises(
        (RuntimeError, UsageError)
    ):  # the computation itself fails, in the layer of the message
        model(too_small)
    assert reached[-1].startswith(layer) or type(model).check_images is not Network.check_images


@pytest.mark.parametrize(
    ("name", "layer", "min_size"),
    [("lenet5", "C5", 16), ("alexnet", "pool5", 67), ("zfnet", "pool5", 47), ("vgg16", "pool5", 32)],
)
def test_a_network_of_fixed_size_can_be_built_for_other_sizes(name: str, layer: str, min_size: int) -> None:
    model = on_meta(name, image_size=min_size)
    assert model(torch.empty(2, model.in_chans, min_size, min_size, device="meta")).shape[0] == 2
    message = (
        f"{name.rstrip('16')} needs images of at least {min_size}x{min_size}, so that {layer} has a grid"
    )
    with pytest.raises(UsageError, match=message):
        on_meta(name, image_size=(200, min_size - 1))


@pytest.mark.parametrize("name", models.list_models())
def test_wrong_channels_and_dimensions_are_refused(name: str) -> None:
    model = on_meta(name, in_chans=3)
    message = f"{name} was built for images of 3 channels, not 4: convert them, or build it with in_chans=4"
    with pytest.raises(UsageError, match=message):
        model(torch.empty(2, 4, 64, 64, device="meta"))
    message = rf"{name} takes images \(n, 3, height, width\), not a tensor of shape \(3, 64, 64\)"
    with pytest.raises(UsageError, match=message):
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
def test_a_wrong_argument_is_refused_in_one_sentence(
    name: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        models.create_model(name, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
