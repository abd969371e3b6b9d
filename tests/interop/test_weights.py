"""Weight files of others: what is taken from them, what is refused, and that nothing is half loaded."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers.networks import shake, small
from torch import Tensor

from convatlas import interop, models
from convatlas.classifier import write_model_file
from convatlas.errors import UsageError, UserError
from convatlas.interop.load_weights import load_weights, to_library_state_dict
from convatlas.models import Network

Tensors = dict[str, Tensor]


def resnet18(**arguments: Any) -> Network:
    return models.create_model("resnet18", width=0.25, num_classes=5, **arguments)


@pytest.fixture
def theirs() -> Tensors:
    """A state dict under torchvision's names."""
    model = resnet18()
    shake(model)
    return to_library_state_dict(model, "torchvision")


def untouched(model: Network) -> Any:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    return lambda: all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 90, "best_acc1": 76.1},
        lambda state: {"model": OrderedDict(state), "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"_orig_mod.module.{key}": value for key, value in state.items()}},
        lambda state: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
        lambda state: {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
    ],
    ids=["plain", "state_dict", "model", "module.", "_orig_mod.module.", "without counters", "half precision"],
)
@pytest.mark.parametrize("kind", ["mapping", "pth", "safetensors"])
def test_the_usual_wrappers_are_taken_off(wrap: Any, kind: str, theirs: Tensors, tmp_path: Path) -> None:
    content, model = wrap(theirs), resnet18()
    if kind == "pth":
        torch.save(content, tmp_path / "w.pth")
        assert load_weights(model, tmp_path / "w.pth") == "torchvision"
    elif kind == "safetensors":
        if not all(isinstance(value, Tensor) for value in content.values()):
            pytest.skip("safetensors holds tensors alone")
        safetensors.torch.save_file(content, tmp_path / "w.safetensors")
        assert load_weights(model, tmp_path / "w.safetensors") == "torchvision"
    else:
        assert load_weights(model, content) == "torchvision"
    for key, value in to_library_state_dict(model, "torchvision").items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, theirs[key], rtol=1e-3, atol=1e-3)


def test_averaged_weights_are_preferred_as_they_are_what_is_evaluated(theirs: Tensors) -> None:
    model, averaged = resnet18(), {key: value + 1 if value.is_floating_point() else value for key, value in theirs.items()}
    load_weights(model, {"state_dict": theirs, "state_dict_ema": averaged})  # type: ignore[dict-item]
    assert torch.equal(to_library_state_dict(model, "torchvision")["fc.bias"], averaged["fc.bias"])


def test_our_own_state_dict_and_file_fit_under_our_own_names(tmp_path: Path) -> None:
    a, b = resnet18(), resnet18()
    torch.save(a.state_dict(), tmp_path / "a.pth")
    assert load_weights(b, tmp_path / "a.pth") == "convatlas"
    assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def test_a_classifier_of_our_own_goes_only_into_the_network_that_it_was_trained_as(tmp_path: Path) -> None:
    bottleneck = models.create_model("resnet50", edition="torchvision", num_classes=3)
    torch.save(to_library_state_dict(bottleneck, "torchvision"), tmp_path / "r50.pth")
    imported = interop.import_classifier(tmp_path / "r50.pth", "resnet50")
    write_model_file(tmp_path / "model.safetensors", imported.metadata, imported.model, imported.normalizer)
    same = untouched(paper := models.create_model("resnet50", num_classes=3))
    with pytest.raises(UserError, match="holds resnet50 with edition='torchvision', which computes something else: build that"):
        load_weights(paper, tmp_path)
    assert same()
    again = models.create_model("resnet50", edition="torchvision", num_classes=3)
    assert load_weights(again, tmp_path) == "convatlas"
    assert torch.equal(again.get_parameter("fc.weight"), bottleneck.get_parameter("fc.weight"))
    with pytest.raises(UsageError, match="is a classifier of ConvAtlas already"):
        interop.import_classifier(tmp_path / "model.safetensors", "resnet50")


def test_a_state_dict_that_wraps_itself_is_left_alone() -> None:
    endless: dict[str, Any] = {}
    endless["state_dict"] = endless
    with pytest.raises(UserError, match="holds no tensors"):
        load_weights(resnet18(), endless)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "layer1.0.conv1.weight"}, r"1 missing: layer1\.0\.conv1\.weight"),
        (lambda s: s | {"layer9.weight": torch.zeros(1)}, r"1 unexpected: layer9\.weight"),
        (lambda s: s | {"fc.weight": torch.zeros(7, 128)}, r"1 mismatched: fc\.weight \(7, 128\) where \(5, 128\) is expected"),
        (lambda s: s | {"fc.bias": torch.full((5,), torch.nan)}, r"not finite in fc\.bias"),
        (lambda s: s | {"fc.weight": s["fc.weight"].to_sparse()}, r"holds a sparse, quantised or empty tensor, fc\.weight"),
        (lambda s: {}, "holds no tensors"),
        (lambda s: {"epoch": 3}, "holds no tensors"),
    ],
)
def test_what_does_not_fit_is_listed_and_nothing_is_loaded(spoil: Any, message: str, theirs: Tensors) -> None:
    model = resnet18()
    same = untouched(model)
    with pytest.raises(UserError, match=message) as error:
        load_weights(model, spoil(theirs))
    assert "\n" not in str(error.value)
    assert same()


def test_the_edition_that_would_fit_is_named() -> None:
    bottleneck = models.create_model("resnet50", edition="torchvision", width=0.25)
    same = untouched(paper := models.create_model("resnet50", width=0.25))
    with pytest.raises(UserError, match="it fits resnet50 built with edition='torchvision'"):
        load_weights(paper, to_library_state_dict(bottleneck, "torchvision"))
    assert same()
    without = models.create_model("inception_v3", edition="torchvision", width=0.25, aux=False)
    with pytest.raises(UserError, match="it fits inception_v3 built with edition='torchvision', aux=False"):
        load_weights(models.create_model("inception_v3", width=0.25), to_library_state_dict(without, "timm"))


def test_names_that_fit_a_network_that_computes_something_else_are_refused() -> None:
    paper = models.create_model("resnet50", width=0.25)
    with pytest.raises(UsageError, match="torchvision's resnet50 computes something else than edition paper: take torchvision"):
        load_weights(paper, paper.state_dict(), source="torchvision")
    with pytest.raises(UsageError, match="timm has no alexnet: known are convatlas, torchvision"):
        to_library_state_dict(small("alexnet")[0], "timm")
    with pytest.raises(UsageError, match="unknown source 'torchvison': the nearest is 'torchvision'"):
        load_weights(paper, {}, source="torchvison")
    with pytest.raises(UsageError, match="needs a network of create_model"):
        load_weights(torch.nn.Linear(1, 1), {})  # type: ignore[arg-type]


class Evil:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_holds_anything_but_tensors_is_refused_and_not_run(legacy: bool, theirs: Tensors, tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "evil.pth"
    torch.save({"state_dict": theirs, "args": Evil(canary)}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"evil\.pth holds something other than tensors"):
        load_weights(resnet18(), file)
    file.write_bytes(pickle.dumps(Evil(canary)))
    with pytest.raises(UserError, match=r"evil\.pth holds something other than tensors"):
        load_weights(resnet18(), file)
    assert not canary.exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_cut_anywhere_is_one_sentence(suffix: str, theirs: Tensors, tmp_path: Path) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    if suffix == "pth":
        torch.save(theirs, whole)
    else:
        safetensors.torch.save_file(theirs, whole)
    data, model = whole.read_bytes(), resnet18()
    same = untouched(model)
    for length in (0, 1, 9, 100, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:length])
        with pytest.raises(UserError, match="cut") as error:
            load_weights(model, cut)
        assert "\n" not in str(error.value)
    assert same()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02]", b"PK\x03\x04", b"\x00" * 64, b"\x08" + b"\x00" * 7 + b'{"a": 1}'])
def test_a_file_of_another_kind_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "strange"
    file.write_bytes(content)
    with pytest.raises(UserError, match="strange") as error:
        load_weights(resnet18(), file)
    assert "\n" not in str(error.value)


def test_an_imported_classifier_brings_its_classes_edition_and_preprocessing(tmp_path: Path) -> None:
    bottleneck = models.create_model("resnet50", edition="torchvision", num_classes=3)
    torch.save(to_library_state_dict(bottleneck, "torchvision"), tmp_path / "r50.pth")
    (tmp_path / "classes.txt").write_text("cat\ndog\n\nowl\n")
    classifier = interop.import_classifier(tmp_path / "r50.pth", "resnet50", classes=tmp_path / "classes.txt")
    card = classifier.metadata
    assert (card.classes, card.network.edition, card.provenance["source"]) == (("cat", "dog", "owl"), "torchvision", "torchvision")
    assert (card.preprocessing.source, card.preprocessing.size, card.preprocessing.fit) == ((256, 256), (224, 224), "crop")
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = bottleneck.eval()((pixels / 255 - mean) / std)
    torch.testing.assert_close(classifier.logits(pixels), expected, rtol=1e-3, atol=1e-3)
    assert classifier.features(pixels, ["penultimate", "conv4_x.5"])["conv4_x.5"].shape == (2, 1024, 14, 14)


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
    torch.save(models.create_model("shufflenet_v2", num_classes=3).state_dict(), tmp_path / "w.pth")
    (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(UserError, match=message):
        interop.import_classifier(tmp_path / "w.pth", "shufflenet_v2", classes=tmp_path / "classes.txt")
    with pytest.raises(UserError, match="fits no edition of resnet18"):
        interop.import_classifier(tmp_path / "w.pth", "resnet18")
