"""Weight files of other libraries: what is read from them, what is refused, and that nothing is half
loaded."""

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers.networks import randomize_weights, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convatlas import interop, models
from convatlas.classifier import write_model_file
from convatlas.errors import UsageError, UserError
from convatlas.interop.load_weights import load_weights, to_library_state_dict
from convatlas.models import Network

StateDict = dict[str, Tensor]


def resnet18(**arguments: Any) -> Network:
    return models.create_model("resnet18", width=0.25, num_classes=5, **arguments)


@pytest.fixture
def state() -> StateDict:
    """A state dict of this network under torchvision's names."""
    model = resnet18()
    randomize_weights(model)
    return to_library_state_dict(model, "torchvision")


def weights_of(model: Network) -> StateDict:
    return {key: value.clone() for key, value in model.state_dict().items()}


def has_weights(model: Network, expected: StateDict) -> bool:
    return all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def add_prefix(state: StateDict, prefix: str) -> StateDict:
    return {f"{prefix}{key}": value for key, value in state.items()}


def to_half(state: StateDict) -> StateDict:
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 90, "best_acc1": 76.1},
        lambda state: {
            "model": OrderedDict(state),
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        },
        lambda state: add_prefix(state, "module."),
        lambda state: {"state_dict": add_prefix(state, "_orig_mod.module.")},
        lambda state: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
        to_half,
    ],
    ids=[
        "plain",
        "state_dict",
        "model",
        "module.",
        "_orig_mod.module.",
        "without counters",
        "half precision",
    ],
)
@pytest.mark.parametrize("kind", ["mapping", "pth", "safetensors"])
def test_the_usual_wrappers_are_removed(wrap: Any, kind: str, state: StateDict, tmp_path: Path) -> None:
    content = wrap(state)
    weights: Any = content
    if kind == "pth":
        weights = tmp_path / "w.pth"
        torch.save(content, weights)
    elif kind == "safetensors":
        if not all(isinstance(value, Tensor) for value in content.values()):
            pytest.skip("safetensors holds tensors alone")
        weights = tmp_path / "w.safetensors"
        safetensors.torch.save_file(content, weights)
    model = resnet18()
    assert load_weights(model, weights).source == "torchvision"
    for key, value in to_library_state_dict(model, "torchvision").items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, state[key], rtol=1e-3, atol=1e-3)


def test_averaged_weights_are_preferred(state: StateDict) -> None:
    averaged = {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}
    checkpoint: dict[str, Any] = {"state_dict": state, "state_dict_ema": averaged}
    model = resnet18()
    load_weights(model, checkpoint)
    assert torch.equal(to_library_state_dict(model, "torchvision")["fc.bias"], averaged["fc.bias"])


def test_our_own_state_dict_fits_under_our_own_names(tmp_path: Path) -> None:
    trained, model = resnet18(), resnet18()
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    assert load_weights(model, tmp_path / "weights.pth").source == "convatlas"
    assert has_weights(model, trained.state_dict())


def test_a_classifiers_file_fits_only_the_network_it_describes(tmp_path: Path) -> None:
    trained = models.create_model("resnet50", edition="torchvision", num_classes=3)
    torch.save(to_library_state_dict(trained, "torchvision"), tmp_path / "r50.pth")
    imported = interop.import_classifier(tmp_path / "r50.pth", "resnet50")
    write_model_file(tmp_path / "model.safetensors", imported.metadata, imported.model, imported.normalizer)
    paper = models.create_model("resnet50", num_classes=3)
    before = weights_of(paper)
    message = "holds resnet50 with edition='torchvision', which computes something else: build that"
    with pytest.raises(UserError, match=message):
        load_weights(paper, tmp_path)
    assert has_weights(paper, before)
    model = models.create_model("resnet50", edition="torchvision", num_classes=3)
    assert load_weights(model, tmp_path).source == "convatlas"
    assert torch.equal(model.get_parameter("fc.weight"), trained.get_parameter("fc.weight"))
    with pytest.raises(UsageError, match="is a classifier of ConvAtlas already"):
        interop.import_classifier(tmp_path / "model.safetensors", "resnet50")


def test_a_state_dict_that_contains_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["state_dict"] = endless
    with pytest.raises(UserError, match="holds no tensors"):
        load_weights(resnet18(), endless)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda state: {key: value for key, value in state.items() if key != "layer1.0.conv1.weight"},
            r"1 missing: layer1\.0\.conv1\.weight",
        ),
        (lambda state: state | {"layer9.weight": torch.zeros(1)}, r"1 unexpected: layer9\.weight"),
        (
            lambda state: state | {"fc.weight": torch.zeros(7, 128)},
            r"1 mismatched: fc\.weight \(7, 128\) where \(5, 128\) is expected",
        ),
        (lambda state: state | {"fc.bias": torch.full((5,), torch.nan)}, r"not finite in fc\.bias"),
        (
            lambda state: state | {"fc.weight": state["fc.weight"].to_sparse()},
            r"holds a sparse, quantised or empty tensor, fc\.weight",
        ),
        (lambda state: {}, "holds no tensors"),
        (lambda state: {"epoch": 3}, "holds no tensors"),
    ],
)
def test_a_misfit_is_described_and_nothing_is_loaded(
    spoil: Callable[[StateDict], Any], message: str, state: StateDict
) -> None:
    model = resnet18()
    before = weights_of(model)
    with pytest.raises(UserError, match=message) as error:
        load_weights(model, spoil(state))
    assert "\n" not in str(error.value)
    assert has_weights(model, before)


def test_the_edition_that_would_fit_is_named() -> None:
    torchvisions = models.create_model("resnet50", edition="torchvision", width=0.25)
    paper = models.create_model("resnet50", width=0.25)
    before = weights_of(paper)
    with pytest.raises(UserError, match="it fits resnet50 built with edition='torchvision'"):
        load_weights(paper, to_library_state_dict(torchvisions, "torchvision"))
    assert has_weights(paper, before)


def test_the_build_without_auxiliary_heads_that_would_fit_is_named() -> None:
    without_aux = models.create_model("inception_v3", edition="torchvision", width=0.25, aux=False)
    model = models.create_model("inception_v3", width=0.25)
    with pytest.raises(UserError, match="it fits inception_v3 built with edition='torchvision', aux=False"):
        load_weights(model, to_library_state_dict(without_aux, "timm"))


def test_names_of_a_network_that_computes_something_else_are_refused() -> None:
    paper = models.create_model("resnet50", width=0.25)
    message = "torchvision's resnet50 computes something else than edition paper: take torchvision"
    with pytest.raises(UsageError, match=message):
        load_weights(paper, paper.state_dict(), source="torchvision")
    with pytest.raises(UsageError, match="timm has no alexnet: known are convatlas, torchvision"):
        to_library_state_dict(small_model("alexnet")[0], "timm")
    with pytest.raises(UsageError, match="unknown source 'torchvison': the nearest is 'torchvision'"):
        load_weights(paper, {}, source="torchvison")
    with pytest.raises(UsageError, match="needs a network of create_model"):
        load_weights(torch.nn.Linear(1, 1), {})  # type: ignore[arg-type]


class MaliciousObject:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_of_anything_but_tensors_is_refused_and_not_run(
    legacy: bool, state: StateDict, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    file = tmp_path / "evil.pth"
    content = {"state_dict": state, "args": MaliciousObject(canary)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"evil\.pth holds something other than tensors"):
        load_weights(resnet18(), file)
    file.write_bytes(pickle.dumps(MaliciousObject(canary)))
    with pytest.raises(UserError, match=r"evil\.pth holds something other than tensors"):
        load_weights(resnet18(), file)
    assert not canary.exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_truncated_file_is_refused_in_one_sentence(suffix: str, state: StateDict, tmp_path: Path) -> None:
    file = tmp_path / f"truncated.{suffix}"
    if suffix == "pth":
        torch.save(state, file)
    else:
        safetensors.torch.save_file(state, file)
    content = file.read_bytes()
    model = resnet18()
    before = weights_of(model)
    for length in (0, 1, 9, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match="truncated") as error:
            load_weights(model, file)
        assert "\n" not in str(error.value)
    assert has_weights(model, before)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x80\x02]",
        b"PK\x03\x04",
        b"\x00" * 64,
        b"\x08" + b"\x00" * 7 + b'{"a": 1}',
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "strange"
    file.write_bytes(content)
    with pytest.raises(UserError, match="strange") as error:
        load_weights(resnet18(), file)
    assert "\n" not in str(error.value)


def test_an_imported_classifier_has_classes_edition_and_preprocessing(tmp_path: Path) -> None:
    model = models.create_model("resnet50", edition="torchvision", num_classes=3)
    torch.save(to_library_state_dict(model, "torchvision"), tmp_path / "r50.pth")
    (tmp_path / "classes.txt").write_text("cat\ndog\n\nowl\n")
    classifier = interop.import_classifier(tmp_path / "r50.pth", "resnet50", classes=tmp_path / "classes.txt")
    metadata = classifier.metadata
    assert metadata.classes == ("cat", "dog", "owl")
    assert metadata.network.edition == "torchvision"
    assert metadata.provenance["source"] == "torchvision"
    assert metadata.preprocessing.resize_size == (256, 256)
    assert metadata.preprocessing.input_size == (224, 224)
    assert metadata.preprocessing.mode == "crop"
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    mean = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
    std = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    with torch.inference_mode():
        expected = model.eval()((images / 255 - mean) / std)
    torch.testing.assert_close(classifier.logits(images), expected, rtol=1e-3, atol=1e-3)
    features = classifier.features(images, ["penultimate", "conv4_x.5"])
    assert features["conv4_x.5"].shape == (2, 1024, 14, 14)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat\ndog", "names 2 classes, but the weights of .* are for 3"),
        ("cat\ndog\ncat", "names the class 'cat' twice"),
        ('["cat", "dog"', "begins like a JSON list but is none"),
        ('["cat", "dog", 3]', "something other than names"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(names: str, message: str, tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    torch.save(models.create_model("shufflenet_v2", num_classes=3).state_dict(), weights)
    (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(UserError, match=message):
        interop.import_classifier(weights, "shufflenet_v2", classes=tmp_path / "classes.txt")
    with pytest.raises(UserError, match="fits no edition of resnet18"):
        interop.import_classifier(weights, "resnet18")


# The best-fitting part

SMALL: dict[str, Any] = {"num_classes": 3, "width": 0.25}
PREFIXES = (
    "",
    "module.",
    "net.",
    "backbone.",
    "model.",
    "_orig_mod.",
    "model.backbone.",
    "encoder.",
    "a.b.c.",
)
WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "module", "params", "model_ema", "x", "0")
STRAYS: dict[str, Any] = {
    "best_acc1": torch.tensor(76.1),
    "epoch": 3,
    "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(16, 3, 3, 3)}}, "param_groups": [{"lr": 0.1}]},
    "scheduler": {"_step_count": 1},
}


@cache
def small_resnet() -> tuple[Network, StateDict, Tensor, Tensor]:
    """ResNet-20 with pytorchcv's names of its tensors, images, and its logits of them."""
    model = models.create_model("resnet20_cifar", shortcut="B", **SMALL)
    randomize_weights(model).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model, to_library_state_dict(model, "pytorchcv"), images, model(images)


def small_logits(weights: Any, **options: Any) -> Tensor:
    model = models.create_model("resnet20_cifar", shortcut="B", **SMALL).eval()
    assert load_weights(model, weights, **options).source in ("pytorchcv", "convatlas")
    with torch.inference_mode():
        logits: Tensor = model(small_resnet()[2])
    return logits


@settings(max_examples=40, deadline=None)
@given(
    prefix=st.sampled_from(PREFIXES),
    outer=st.lists(st.sampled_from(WRAPPERS), max_size=3),
    strays=st.sets(st.sampled_from(sorted(STRAYS))),
    bare_head=st.booleans(),
    counters=st.booleans(),
    names=st.sampled_from(["pytorchcv", "convatlas"]),
    buffers=st.booleans(),
    in_list=st.booleans(),
)
def test_any_nesting_and_any_prefix_gives_the_same_logits(
    prefix: str,
    outer: list[str],
    strays: set[str],
    bare_head: bool,
    counters: bool,
    names: str,
    buffers: bool,
    in_list: bool,
) -> None:
    model, library_state, _, logits = small_resnet()
    state = library_state if names == "pytorchcv" else model.state_dict()
    head = ("output.", "fc.")
    content: Any = {
        ("" if bare_head and key.startswith(head) else prefix) + key: value
        for key, value in state.items()
        if counters or not key.endswith("num_batches_tracked")
    }
    if buffers:  # as profilers and losses register them
        content |= {f"{prefix}total_ops": torch.zeros(1), "criterion.weight": torch.ones(3)}
    for key in outer:
        content = {name: STRAYS[name] for name in sorted(strays)} | {key: content}
    if in_list:
        content = {"all": [7, content]}
    assert torch.equal(small_logits(content), logits)


def test_what_is_taken_and_what_is_ignored_are_said(tmp_path: Path) -> None:
    _, state, _, logits = small_resnet()
    checkpoint = STRAYS | {"state_dict": add_prefix(state, "module.")}
    torch.save(checkpoint, tmp_path / "model_best.pth.tar")
    model = models.create_model("resnet20_cifar", shortcut="B", **SMALL)
    loaded = load_weights(model, tmp_path / "model_best.pth.tar")
    assert (loaded.part, loaded.source, loaded.tensors, loaded.new) == (
        "state_dict",
        "pytorchcv",
        len(state),
        (),
    )
    assert loaded.ignored == ("best_acc1", "optimizer.state.0.momentum_buffer")
    assert str(loaded) == (
        f"{len(state)} tensors of state_dict, under pytorchcv's names; "
        "ignored: best_acc1, optimizer (1 tensor)"
    )
    assert torch.equal(small_logits(checkpoint), logits)


@pytest.mark.parametrize(
    "averaged_key", ["ema", "model_ema", "state_dict_ema", "ema_model", "swa_state_dict"]
)
@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_come_before_equals_wherever_they_stand(averaged_key: str, first: bool) -> None:
    _, state, _, logits = small_resnet()
    raw = {key: value + 1 for key, value in state.items()}
    parts = [("model", raw), (averaged_key, state)]
    checkpoint = dict(reversed(parts) if first else parts)
    assert torch.equal(small_logits(checkpoint), logits)
    # an average of the parameters alone, without batch norm's statistics, is not enough
    partial = {key: value for key, value in raw.items() if "running" not in key}
    assert torch.equal(small_logits({averaged_key: partial, "model": state}), logits)


def test_parallel_features_of_the_imagenet_example_load() -> None:
    """It wraps the convolutions of AlexNet and VGG alone: `features.module.0.weight`."""
    model = models.create_model("vgg11", edition="torchvision", width=0.1, num_classes=3)
    randomize_weights(model)
    state = to_library_state_dict(model, "torchvision")
    wrapped = {key.replace("features.", "features.module."): value for key, value in state.items()}
    other = models.create_model("vgg11", edition="torchvision", width=0.1, num_classes=3)
    load_weights(other, {"state_dict": wrapped, "best_acc1": torch.tensor(1.0)})
    assert has_weights(other, model.state_dict())


@pytest.mark.parametrize(
    ("deep", "shallow", "source"),
    [
        ("resnet34", "resnet18", "torchvision"),
        ("vgg19", "vgg16", "convatlas"),
        ("vgg13_bn", "vgg11_bn", "convatlas"),
    ],
)
def test_a_deeper_network_is_not_taken_for_a_shallower_one(deep: str, shallow: str, source: str) -> None:
    arguments: dict[str, Any] = {"width": 0.1, "num_classes": 3}
    if deep.startswith("vgg"):
        arguments["image_size"] = 32
    state = to_library_state_dict(models.create_model(deep, **arguments), source)
    with pytest.raises(UserError, match="unexpected: "):
        load_weights(models.create_model(shallow, **arguments), {"state_dict": state})


# A new head


def without_head(state: StateDict) -> StateDict:
    return {key: value for key, value in state.items() if not key.startswith("output.")}


def other_classes(state: StateDict) -> StateDict:
    return without_head(state) | {"output.weight": torch.zeros(7, 16), "output.bias": torch.zeros(7)}


def another_head(state: StateDict) -> StateDict:
    return without_head(state) | {"head.0.weight": torch.zeros(9, 16), "head.3.weight": torch.zeros(2, 9)}


@pytest.mark.parametrize("change", [without_head, other_classes, another_head])
def test_a_new_head_keeps_its_initial_weights_and_the_rest_must_fit(
    change: Callable[[StateDict], StateDict],
) -> None:
    trained, state, _, _ = small_resnet()
    weights = {"state_dict": add_prefix(change(state), "backbone.")}
    model = models.create_model("resnet20_cifar", shortcut="B", **SMALL)
    initial = weights_of(model)
    with pytest.raises(UserError, match='all but fc fit: head="new" leaves these newly initialised'):
        load_weights(model, weights)
    assert has_weights(model, initial)
    assert load_weights(model, weights, head="new").new == ("fc.weight", "fc.bias")
    expected = trained.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, initial[key] if key.startswith("fc.") else expected[key]), key
    del weights["state_dict"]["backbone.features.stage1.unit1.body.conv1.conv.weight"]
    with pytest.raises(UserError, match=r"1 missing: features.stage1.unit1.body.conv1.conv.weight"):
        load_weights(model, weights, head="new")
    with pytest.raises(UsageError, match="unknown head 'newer': the nearest is 'new'"):
        load_weights(model, weights, head="newer")  # type: ignore[arg-type]


def vgg11(**arguments: Any) -> Network:
    return models.create_model("vgg11", width=0.1, num_classes=3, **arguments)


def test_vggs_convolutions_alone_load_with_three_new_layers() -> None:
    trained = vgg11(image_size=64)
    state = to_library_state_dict(trained, "torchvision")
    convolutions = {key: value for key, value in state.items() if key.startswith("features.")}
    model = vgg11(image_size=64)
    initial = weights_of(model)
    with pytest.raises(UserError, match='all but fc6, fc7, fc8 fit: head="new"'):
        load_weights(model, convolutions)
    loaded = load_weights(model, convolutions, head="new")
    assert {key.split(".")[0] for key in loaded.new} == {"fc6", "fc7", "fc8"}
    for key, value in model.state_dict().items():
        assert torch.equal(value, initial[key] if key.startswith("fc") else trained.state_dict()[key])


def test_vggs_fully_connected_layers_are_new_from_the_first_that_does_not_fit() -> None:
    trained = vgg11(image_size=64)
    state = to_library_state_dict(trained, "torchvision")
    at_another_size = vgg11(image_size=96)
    loaded = load_weights(at_another_size, state, head="new")
    assert {key.split(".")[0] for key in loaded.new} == {"fc6", "fc7", "fc8"}
    model = vgg11(image_size=64)
    assert {key.split(".")[0] for key in load_weights(model, state, head="new").new} == {"fc8"}
    assert torch.equal(model.get_parameter("fc7.weight"), trained.get_parameter("fc7.weight"))


def test_an_error_names_the_nearest_fit() -> None:
    _, state, _, _ = small_resnet()
    state = {
        key: value for key, value in state.items() if not key.startswith("features.stage1.unit1.body.conv1")
    }
    state["features.stage1.unit4.body.conv1.conv.weight"] = torch.zeros(1)
    model = models.create_model("resnet20_cifar", shortcut="B", **SMALL)
    message = (
        r"under pytorchcv's names: 102 of 107 tensors fit; "
        r"5 missing: features\.stage1\.unit1\.body\.conv1\.conv\.weight, .*; "
        r"1 unexpected: features\.stage1\.unit4\.body\.conv1\.conv\.weight$"
    )
    with pytest.raises(UserError, match=message):
        load_weights(model, state)
    message = "has no tensor of resnet20_cifar, edition paper, under any library's names: it holds a.weight"
    with pytest.raises(UserError, match=message):
        load_weights(model, {"a.weight": torch.zeros(1)})
