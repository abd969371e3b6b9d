"""Training of a network that labels pixels: the same loop, bits and commands as for a classifier."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.mask_shapes import CLASSES, make_shapes, unet_run
from PIL import Image
from skimage.measure import label

import convatlas as ca
from convatlas import models
from convatlas.cli.main import main
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.errors import UsageError, UserError
from convatlas.evaluation.mask_predictions import read_mask_predictions
from convatlas.export import quantization
from convatlas.inference.selection import ENGINES
from convatlas.layers.upsampling import bilinear_kernel
from convatlas.recipes import RECIPES, Epochs
from convatlas.segmentation.results import results_document
from convatlas.training.run import Pretrained
from convatlas.visualization.grad_cam import grad_cam


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="session")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unet"
    ca.train(unet_run(shapes), folder, workers=0)
    return folder


def test_a_unet_learns_the_shapes(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    test = next(line for line in lines if line.get("split") == "test")
    assert test["mean_iou"] > 70
    assert {"pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "loss", "n"} <= set(test)
    validations = [line for line in lines if line.get("split") == "val" and "event" not in line]
    assert validations[-1]["mean_iou"] > validations[0]["mean_iou"]
    assert "pixel_accuracy" in lines[0]


def test_an_evaluation_takes_one_image_at_a_time_and_is_planned_so(trained: Path) -> None:
    run = json.loads((trained / "run.json").read_text())["run"]
    assert run["evaluation_batch"] == 1
    assert run["data"]["content"]["preprocessing"]["mode"] == "tiles"


def test_the_report_shows_the_cases_and_is_complete(trained: Path) -> None:
    text = (trained / "report.md").read_text()
    for picture in ("batch.png", "curves.png", "confusion.png", "cases.png"):
        assert f"({picture})" in text
        assert np.asarray(Image.open(trained / picture)).std() > 5
    for name in CLASSES:
        assert f"| {name} |" in text
    assert "better than always predicting ground" in text
    run_id = json.loads((trained / "run.json").read_text())["id"]
    assert f"| run | `{run_id[:8]}`, seed 0 |" in text


def test_evaluation_gives_the_figures_of_the_training(trained: Path, shapes: Path) -> None:
    document = ca.evaluate(trained)
    predictions, metadata = read_mask_predictions(trained / "predictions" / "test.safetensors")
    expected = results_document(predictions, metadata.classes)
    assert metadata.classes == CLASSES
    for key in ("mean_iou", "pixel_accuracy", "confusion", "loss", "n"):
        assert document[key] == expected[key]
    assert document["crops"] == "whole"
    assert ca.evaluate(trained, split="val")["n"] == 4
    with pytest.raises(UsageError, match="take whole images"):
        ca.evaluate(trained, crops="10")


def test_evaluation_scores_the_objects_of_data_with_instances(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segmenter = ca.Segmenter(trained)
    scores = []
    for number in range(6):
        (mask,) = segmenter.predict(shapes / "test" / "images" / f"{number}.png", "eager")
        predicted = label(mask, background=0, connectivity=2)  # type: ignore[no-untyped-call]
        instances = np.asarray(Image.open(shapes / "test" / "instances" / f"{number}.png"))
        for id in (1, 2):
            overlaps = [(predicted == other) & (instances == id) for other in range(1, predicted.max() + 1)]
            covering = [i for i, both in enumerate(overlaps, 1) if 2 * both.sum() > (instances == id).sum()]
            union = [((predicted == i) | (instances == id)).sum() for i in covering]
            scores.append(100 * overlaps[covering[0] - 1].sum() / union[0] if covering else 0)
    assert main(["eval", str(trained), "--json", "--out", str(tmp_path / "report")]) == 0
    document = json.loads(capsys.readouterr().out)["instances"]
    assert document["n"] == 12
    assert document["seg"] == pytest.approx(np.mean(scores))
    low, high = document["seg_interval"]
    assert low < document["seg"] < high
    sentence = f"SEG {np.mean(scores):.2f} %, 95 % interval {low:.2f} to {high:.2f}"
    assert sentence in (tmp_path / "report" / "report.md").read_text()
    assert main(["eval", str(trained)]) == 0
    assert sentence in " ".join(capsys.readouterr().out.split())


def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def stop(*args: Any) -> Iterator[Any]:
        for number, item in enumerate(iterate_batches(*args)):
            if number == 30:
                raise MemoryError("stop here")
            yield item

    run = unet_run(shapes).replace(save_every=8)
    monkeypatch.setattr("convatlas.training.loop.iterate_batches", stop)
    with pytest.raises((MemoryError, UserError)):
        ca.train(run, tmp_path / "stopped", workers=0)
    monkeypatch.undo()
    assert (tmp_path / "stopped" / "checkpoints" / "00000024.safetensors").exists()
    ca.train(run, tmp_path / "stopped", workers=1)
    resumed = ca.load(tmp_path / "stopped").model.state_dict()
    for name, tensor in ca.load(trained).model.state_dict().items():
        assert torch.equal(resumed[name], tensor), name


def test_runs_are_compared_by_their_mean_iou(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.train(unet_run(shapes, seed=1, epochs=1), tmp_path / "short", workers=0)
    capsys.readouterr()
    arguments = ["compare", str(trained), str(tmp_path / "short"), "--png", str(tmp_path / "c.png")]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    first, second = document["runs"]
    (pair,) = document["paired"]
    assert (first["score"], pair["n"]) == ("mean_iou", 6)
    assert pair["difference"] == pytest.approx(second["test_mean_iou"] - first["test_mean_iou"])
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "val mean IU %" in text
    assert "points better than B in mean IU on the same 6 images" in " ".join(text.split())
    assert np.asarray(Image.open(tmp_path / "c.png")).std() > 5


def test_predict_writes_masks_and_overlays(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [shapes / "test" / "images" / f"{number}.png" for number in range(3)]
    shutil.copy(images[0], tmp_path / "1.png")  # another image with the name of one of them
    arguments = [
        "predict",
        str(trained),
        *map(str, images),
        str(tmp_path / "1.png"),
        str(tmp_path / "no.png"),
    ]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--engine", "eager", "--json"]) == 1
    documents = json.loads(capsys.readouterr().out)
    assert "error" in documents[-1]
    masks = [np.asarray(Image.open(document["mask"])) for document in documents[:-1]]
    segmenter = ca.Segmenter(trained)
    for mask, expected in zip(masks, segmenter.predict([*images, tmp_path / "1.png"], "eager"), strict=True):
        assert (mask == expected).all()
    assert (masks[0] == masks[3]).all()
    truth = np.asarray(Image.open(shapes / "test" / "masks" / "0.png"))
    assert (masks[0] == truth).mean() > 0.9
    assert len({document["mask"] for document in documents[:-1]}) == 4
    overlay = np.asarray(Image.open(documents[0]["overlay"]))
    assert overlay.shape == (36, 44, 3)
    shares = {entry["name"]: entry["share"] for entry in documents[0]["classes"]}
    assert sum(shares.values()) == pytest.approx(100)


def test_predict_writes_the_objects_as_ids_of_16_bits(
    trained: Path,
    shapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = shapes / "test" / "images" / "0.png"
    arguments = ["predict", str(trained), str(image), "--engine", "eager", "--out", str(tmp_path)]
    assert main([*arguments, "--instances", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    (mask,) = ca.Segmenter(trained).predict(image, "eager")
    file = Image.open(document["instances"])
    assert file.mode == "I;16"
    instances = np.asarray(file)
    components = label(mask, background=0, connectivity=2)  # type: ignore[no-untyped-call]
    assert document["objects"] == instances.max() == components.max() > 0
    pairs = np.unique(np.stack([instances.ravel(), components.ravel()]), axis=1)
    assert pairs.shape[1] == components.max() + 1  # one id for each component, and none for what is none
    assert main([*arguments, "--instances"]) == 0
    assert f"{document['objects']} objects" in capsys.readouterr().out
    monkeypatch.setattr("convatlas.data.mask_pictures.MAX_INSTANCES", document["objects"] - 1)
    assert main([*arguments, "--instances"]) == 1
    assert f"a mask of {document['objects']} objects" in capsys.readouterr().err


def test_an_export_and_its_script_give_the_masks_of_predict(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    assert main(["export", str(trained), "--to", "onnx", "--out", str(tmp_path / "unet.onnx")]) == 0
    image = Image.open(shapes / "test" / "images" / "0.png")
    large = Image.new("L", (100, 70))  # several tiles
    large.paste(image, (30, 20))
    large.save(tmp_path / "large.png")
    (script,) = tmp_path.glob("*.py")
    command = [sys.executable, str(script), str(tmp_path / "large.png"), str(tmp_path / "mask.png")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    (expected,) = ca.Segmenter(trained).predict(tmp_path / "large.png", "eager")
    assert (mask == expected).mean() > 0.999
    assert output.startswith(f"{CLASSES[int(np.bincount(mask.ravel()).argmax())]} ")


@pytest.mark.skipif(bool(quantization.missing_requirement()), reason="int8 needs NNCF")
def test_int8_is_calibrated_on_tiles_and_checked_by_mean_iou(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "int8"
    command = ["export", str(trained), "--to", "int8", "--out", str(folder), "--json"]
    assert main([*command, "--max-drop", "20"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["score"] == "mean_iou"
    assert document["drop"] == pytest.approx(document["before"] - document["after"])
    evaluation = ca.evaluate(trained, split="val")
    assert document["n"] == evaluation["n"]
    assert document["before"] == pytest.approx(evaluation["mean_iou"], abs=0.2)  # OpenVINO's fp32
    # its script labels the pixels of predict
    photo = shapes / "test" / "images" / "0.png"
    script = [sys.executable, str(folder / "classify.py"), str(photo), str(tmp_path / "mask.png")]
    subprocess.run(script, check=True, capture_output=True)
    (expected,) = ca.Segmenter(trained).predict(photo, "eager")
    assert (np.asarray(Image.open(tmp_path / "mask.png")) == expected).mean() > 0.9


def test_every_engine_labels_the_same_pixels(trained: Path, shapes: Path) -> None:
    segmenter = ca.Segmenter(trained)
    images = [shapes / "test" / "images" / f"{number}.png" for number in range(2)]
    expected = segmenter.predict(images, "eager")
    for name in ("onnx", "openvino"):
        if ENGINES[name].missing_requirement():
            continue
        for mask, reference in zip(segmenter.predict(images, name), expected, strict=True):
            assert (mask == reference).mean() > 0.995


def test_grad_cam_explains_a_class_a_pixel_and_a_box(trained: Path, shapes: Path) -> None:
    classifier = ca.load(trained)
    preprocessing = classifier.metadata.preprocessing
    image = Image.open(shapes / "test" / "images" / "0.png")
    truth = np.asarray(Image.open(shapes / "test" / "masks" / "0.png"))
    tile = RandomTile().geometry((36, 44), preprocessing.input_size, 92, np.full(3, 0.5), None)  # type: ignore[arg-type]
    pixels = tile.sample_image(torch.from_numpy(np.asarray(image)[None].copy()))
    normalized = classifier.normalizer(pixels[None])
    layer = "expand1"
    height, width = preprocessing.output_size
    whole = grad_cam(classifier.model, normalized, 2, layer)
    assert whole.shape == (1, height, width)
    top, left = (height - 36) // 2, (width - 44) // 2
    inside = whole[0, top : top + 36, left : left + 44]
    assert inside[truth == 2].mean() > 2 * inside[truth == 0].mean()
    row, column = (int(values.mean()) for values in np.nonzero(truth == 2))
    pixel = torch.zeros(height, width)
    pixel[top + row, left + column] = 1
    box = torch.zeros(height, width)
    box[top + row - 3 : top + row + 3, left + column - 3 : left + column + 3] = 1
    for region in (pixel, box):
        assert grad_cam(classifier.model, normalized, 2, layer, region).any()
    with pytest.raises(UsageError, match="a region should have the size of the map"):
        grad_cam(classifier.model, normalized, 2, layer, torch.zeros(3, 3))


def test_visualize_draws_filters_and_grad_cam(trained: Path, shapes: Path, tmp_path: Path) -> None:
    image = shapes / "test" / "images" / "0.png"
    assert (
        main(["visualize", str(trained), str(image), "--module", "expand1", "--out", str(tmp_path / "v")])
        == 0
    )
    assert np.asarray(Image.open(tmp_path / "v" / "0.png")).std() > 5


def test_a_network_that_classifies_writes_no_objects(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lenet = models.create_model("lenet5", num_classes=2, in_chans=1)
    ca.Classifier.from_module(lenet, ["a", "b"], 32, 0.5, 0.5).save(tmp_path)
    assert main(["predict", str(tmp_path), str(shapes / "test/images/0.png"), "--instances"]) == 2
    assert "lenet5 classifies images: --instances needs a network that labels" in capsys.readouterr().err


def test_networks_data_and_recipes_of_different_tasks_are_refused(
    trained: Path, shapes: Path, tmp_path: Path
) -> None:
    for number in range(8):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            image = np.random.default_rng([number, *name.encode()]).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{number}{name}.png")
    photos, masks = f"folder:{tmp_path / 'photos'}", f"folder:{shapes}"
    for model, data, recipe, message in (
        ("unet", photos, "quick", "has no masks: expected folder:PATH with PATH/train/images"),
        ("lenet5", masks, "quick", "has masks, and lenet5 classifies images"),
        ("unet", masks, "resnet", "resnet is for networks that classify images"),
        ("resnet20_cifar", photos, "unet", "unet is for networks that label pixels"),
    ):
        with pytest.raises(UsageError, match=message):
            ca.train(ca.Run(model=model, data=data, recipe=recipe), tmp_path / "run")
    with pytest.raises(UsageError, match=r"labels pixels: ca\.Segmenter"):
        ca.load(trained).predict([shapes / "test" / "images" / "0.png"])
    with pytest.raises(UsageError, match="has no masks"):
        ca.evaluate(trained, photos, split="all")


@pytest.mark.parametrize("folder", ["nowhere", "without masks", "without masks in splits", "flat"])
def test_a_folder_that_holds_no_data_is_told_the_layout_of_masks(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("without masks/images", "without masks in splits/train/images", "flat"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / place / "1.png")
    assert (
        main(["train", "unet", "--data", f"folder:{tmp_path / folder}", "--out", str(tmp_path / "run")]) == 1
    )
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "loading" not in line)
    assert "(networks that label pixels: PATH/train/images and PATH/train/masks)" in line


def test_fcn_is_trained_in_the_papers_stages(shapes: Path, tmp_path: Path) -> None:
    classifier = models.create_model("vgg16", num_classes=5, in_chans=1, width=0.02)
    preprocessing = (224, 224)
    ca.Classifier.from_module(classifier, list("abcde"), preprocessing, 0.5, 0.5).save(tmp_path / "vgg16")
    weights = tmp_path / "vgg16"
    recipe = RECIPES["fcn_small"].replace(budget=Epochs(0.5), crop=RandomTile(), init="default")
    scores: dict[str, float] = {}
    for name in ("fcn32s", "fcn16s", "fcn8s"):
        model = models.get_architecture(name, width=0.02, image_size=(32, 40))
        run = ca.Run(
            model=model,
            data=f"folder:{shapes}",
            recipe=recipe,
            pretrained=Pretrained(file=str(weights)),
            precision="fp32",
        )
        result = ca.train(run, tmp_path / name, workers=0)
        scores[name] = result.metrics["test_mean_iou"]
        trained_run = json.loads((tmp_path / name / "run.json").read_text())["run"]
        last = {"fcn32s": "upscore", "fcn16s": "upscore16", "fcn8s": "upscore8"}[name]
        assert trained_run["frozen"] == [last]
        fcn = ca.load(tmp_path / name).model
        kernel = fcn.get_parameter(f"{last}.weight")[0, 0]
        assert torch.equal(kernel, bilinear_kernel(len(kernel)))
        weights = tmp_path / name
    other = models.get_architecture("fcn16s", width=0.04)
    coarser = Pretrained(file=str(tmp_path / "fcn32s"))
    with pytest.raises(UsageError, match="cannot be the start of fcn16s"):
        ca.train(run.replace(model=other, pretrained=coarser), tmp_path / "other")
    assert all(np.isfinite(score) for score in scores.values())
