"""`convatlas import`: what the user says is taken, what is left out is assumed and said so."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import convatlas
from convatlas import models
from convatlas.cli.main import main
from convatlas.interop.load_weights import to_library_state_dict

Capture = pytest.CaptureFixture[str]


def save(folder: Path, name: str, source: str = "convatlas", **arguments: Any) -> str:
    model = models.create_model(name, **arguments)
    torch.save(to_library_state_dict(model, source), folder / "w.pth")
    return str(folder / "w.pth")


def run(folder: Path, *words: str) -> tuple[int, Path]:
    out = folder / "out"
    return main(["import", *words, "--out", str(out)]), out


@pytest.fixture
def resnet(tmp_path: Path) -> str:
    """torchvision's names, 1,000 classes."""
    return save(tmp_path, "resnet18", "torchvision", width=0.25)


def test_the_summary_says_what_was_read_and_what_was_assumed(
    resnet: str, tmp_path: Path, capsys: Capture
) -> None:
    code, out = run(tmp_path, resnet)
    text = capsys.readouterr().out
    assert code == 0
    assert "network: resnet18, edition torchvision with width=0.25, from torchvision" in text
    assert "classes: 1,000: tench, goldfish, great white shark, ..." in text
    assert "images: shorter side to 256, centre 224x224; mean 0.485, 0.456, 0.406; std 0.229" in text
    assumed = " ".join(text[text.index("assumed") : text.index("wrote")].split())
    for part in (
        "size 224",
        "mean 0.485",
        "std 0.229",
        "the 1,000 classes of ImageNet",
        "timm's resnetblur18",
    ):
        assert part in assumed
    assert f"convatlas predict {out} IMAGE..." in text


def test_the_part_that_was_taken_and_what_was_ignored_are_said(
    resnet: str, tmp_path: Path, capsys: Capture
) -> None:
    state = torch.load(resnet, weights_only=True)
    optimizer = {"state": {0: {"momentum": torch.zeros(3)}}}
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}, "optimizer": optimizer},
        tmp_path / "checkpoint.pth",
    )
    code, _ = run(tmp_path, str(tmp_path / "checkpoint.pth"))
    text = capsys.readouterr().out
    assert code == 0
    assert "taken from: state_dict" in text
    assert "ignored: optimizer" in text


def test_size_mean_and_std_are_taken_and_not_assumed(resnet: str, tmp_path: Path, capsys: Capture) -> None:
    words = ["--size", "192", "--mean", "0.1,0.2,0.3", "--std", "0.5", "--classes", "imagenet", "--model"]
    code, out = run(tmp_path, resnet, *words, "resnet18")
    assert code == 0
    assert "assumed" not in capsys.readouterr().out
    classifier = convatlas.load(out)
    assert classifier.metadata.preprocessing.input_size == (192, 192)
    assert classifier.metadata.preprocessing.resize_size == (219, 219)
    torch.testing.assert_close(classifier.normalizer.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(classifier.normalizer.std.flatten(), torch.tensor([0.5, 0.5, 0.5]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "0"], "--size should be from 1 to 8,192 pixels a side, not 0"),
        (["--size", "9999"], "--size should be from 1 to 8,192 pixels a side, not 9999"),
        (
            ["--mean", "123.7,116.3,103.5"],
            "--mean should be from 0 to 1, for pixels from 0 to 1, not 123.7: divide",
        ),
        (["--mean", "-0.1"], "--mean should be from 0 to 1"),
        (["--mean", "nan"], "--mean should be from 0 to 1"),
        (["--std", "58,57,57"], "not 58: divide by 255"),
        (["--std", "0"], "--std should be from 0.0001 to 1"),
        (["--mean", "0.5,0.5"], "--mean has 2 values, but the weights are for images of 3 channels"),
        (["--mean", "a,b,c"], "--mean is 'a,b,c': expected numbers with commas, such as 0.485,0.456,0.406"),
        (["--mean", ""], "--mean is '': expected numbers"),
        (["--set", "recipe.batch=3"], "import sets arguments of the network alone, such as width=0.5"),
        (["--set", "widht=3", "--model", "resnet18"], "the nearest is 'width'"),
        (["--set", "width=-1"], "width of resnet18 should be greater than 0, not -1"),
        (["--set", "width=99"], "width of resnet18 should be at most 64, not 99"),
        (["--classes", "nowhere.txt"], "cannot read nowhere.txt: No such file"),
        (["--model", "unet"], "unet labels every pixel"),
        (["--edition", "timm"], "cannot be built with edition timm"),
        (["--edition", "timm", "--model", "resnet18"], "unknown edition of resnet18 'timm'"),
    ],
)
def test_an_option_outside_its_range_is_one_sentence(
    words: list[str], message: str, resnet: str, tmp_path: Path, capsys: Capture
) -> None:
    code, out = run(tmp_path, resnet, *words)
    error = capsys.readouterr().err
    assert code in (1, 2)
    assert message in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_vgg_weights_of_another_image_size_and_width(tmp_path: Path, capsys: Capture) -> None:
    weights = save(tmp_path, "vgg11_bn", width=0.25, image_size=96, num_classes=3)
    assert run(tmp_path, weights)[0] == 1
    assert "it fits an image_size of 96: say --set image_size=96" in capsys.readouterr().err
    for number, words in enumerate(
        (["--size", "96"], ["--set", "width=0.25", "model.arguments.image_size=96"])
    ):
        folder = tmp_path / str(number)
        code, out = run(folder, weights, *words)
        assert code == 0
        metadata = convatlas.load(out).metadata
        assert metadata.network.arguments["width"] == 0.25
        assert metadata.network.arguments["image_size"] == 96
        assert metadata.preprocessing.input_size == (96, 96)
        assert not any("size" in assumption for assumption in metadata.provenance["assumed"])


def test_grey_weights_take_one_channel_and_the_average_statistics(tmp_path: Path, capsys: Capture) -> None:
    weights = save(tmp_path, "resnet18", "timm", width=0.25, in_chans=1, num_classes=3)
    code, out = run(tmp_path, weights)
    assert code == 0
    classifier = convatlas.load(out)
    torch.testing.assert_close(
        classifier.normalizer.mean.flatten(), torch.tensor([(0.485 + 0.456 + 0.406) / 3])
    )
    assert "averaged" in capsys.readouterr().out


def test_class_names_come_from_a_csv(tmp_path: Path, capsys: Capture) -> None:
    weights = save(tmp_path, "resnet18", "torchvision", width=0.25, num_classes=3)
    (tmp_path / "names.csv").write_text('\ufeffindex,name\r\n1,bag\r\n0,"coat, long"\r\n2,shoe\r\n')
    code, out = run(tmp_path, weights, "--classes", str(tmp_path / "names.csv"))
    assert code == 0
    assert convatlas.load(out).metadata.classes == ("coat, long", "bag", "shoe")


def test_without_class_names_indices_are_used_and_said_so(tmp_path: Path, capsys: Capture) -> None:
    weights = save(tmp_path, "resnet18", "torchvision", width=0.25, num_classes=3)
    code, out = run(tmp_path, weights)
    assert code == 0
    assert "classes: 3, no class names given: using indices" in capsys.readouterr().out
    assert convatlas.load(out).metadata.classes == ("0", "1", "2")


def test_1001_outputs_are_imagenets_with_the_background_first(tmp_path: Path, capsys: Capture) -> None:
    weights = save(tmp_path, "resnet18", "torchvision", width=0.25, num_classes=1001)
    code, out = run(tmp_path, weights)
    assert code == 0
    assert convatlas.load(out).metadata.classes[:2] == ("background", "tench")
    assert "ImageNet, the first the background" in " ".join(capsys.readouterr().out.split())


def test_imagenets_names_for_another_number_of_outputs_are_refused(tmp_path: Path, capsys: Capture) -> None:
    weights = save(tmp_path, "resnet18", "torchvision", width=0.25, num_classes=21)
    assert run(tmp_path, weights, "--classes", "imagenet")[0] == 1
    assert "ImageNet has 1,000 classes (1,001 with the background), but the weights are for 21" in (
        capsys.readouterr().err
    )


def test_ambiguous_networks_need_the_edition(tmp_path: Path, capsys: Capture) -> None:
    """pytorchcv's resnet50b has the names and shapes of its resnet50, and the stride elsewhere."""
    weights = save(tmp_path, "resnet50", "pytorchcv", edition="torchvision", width=0.25, num_classes=3)
    for words in ([], ["--model", "resnet50"]):
        assert run(tmp_path, weights, *words)[0] == 2
        error = capsys.readouterr().err
        assert "differ in stride" in error
        assert (
            "--edition paper (pytorchcv's resnet50) or --edition torchvision (pytorchcv's resnet50b)" in error
        )
    code, out = run(tmp_path, weights, "--edition", "torchvision")
    assert code == 0
    assert convatlas.load(out).metadata.network.edition == "torchvision"


def test_a_folders_config_names_classes_size_and_statistics(tmp_path: Path, capsys: Capture) -> None:
    """Weights that were saved as the Hugging Face Hub keeps them, on this machine."""
    import safetensors.torch

    model = models.create_model("resnet18", width=0.25, num_classes=2)
    state = {key: value.contiguous() for key, value in to_library_state_dict(model, "timm").items()}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    config = {
        "architecture": "resnet18",
        "label_names": ["cat", "dog"],
        "pretrained_cfg": {"input_size": [3, 96, 96], "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out = run(tmp_path, str(tmp_path))
    assert code == 0
    assert "assumed" not in capsys.readouterr().out
    metadata = convatlas.load(out).metadata
    assert metadata.classes == ("cat", "dog")
    assert metadata.preprocessing.input_size == metadata.preprocessing.resize_size == (96, 96)


def test_json_gives_everything_that_was_decided(resnet: str, tmp_path: Path, capsys: Capture) -> None:
    code, out = run(tmp_path, resnet, "--json")
    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert document["out"] == str(out)
    assert document["network"]["name"] == "resnet18"
    assert (document["source"], document["classes"], document["size"]) == ("torchvision", 1000, [224, 224])
    assert len(document["assumed"]) == 5


def test_an_existing_classifier_is_not_replaced(resnet: str, tmp_path: Path, capsys: Capture) -> None:
    assert run(tmp_path, resnet)[0] == 0
    content = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert run(tmp_path, resnet)[0] == 2
    assert "already holds a classifier or a run" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == content
