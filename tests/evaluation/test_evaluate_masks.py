"""Evaluation of networks that label pixels: several are averaged pixel by pixel, and one is cached."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.mask_shapes import CLASSES, make_shapes
from numpy.typing import NDArray
from PIL import Image

import convatlas as ca
from convatlas.classifier import Classifier
from convatlas.cli.main import main
from convatlas.data.images.decode import open_image
from convatlas.data.transforms.preprocessing import tile_preprocessing
from convatlas.errors import UsageError
from convatlas.segmentation.metrics import mean_iou
from convatlas.segmentation.predict import logit_windows

TILE = (204, 220)  # of which 20 x 36 pixels are labelled: several windows an image
PERMUTED = ("bar", "ground", "disc")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes"))


def segmenter(seed: int, data: Path, classes: tuple[str, ...] = CLASSES, scale: float = 1.0) -> ca.Segmenter:
    """A random network that predicts several classes."""
    torch.manual_seed(seed)
    model = ca.create_model("unet", width=0.02, num_classes=3, in_chans=1)
    image = np.asarray(Image.open(data / "test/images/0.png"))
    tile = torch.from_numpy(np.pad(image, ((84, 84), (88, 88)), mode="symmetric"))[None, None]
    with torch.no_grad():
        logits = model.eval()((tile / 255 - 0.4) / 0.3)
        model.get_parameter(f"{model.classifier}.bias").sub_(logits.mean((0, 2, 3)))
    preprocessing = tile_preprocessing(1, TILE, 92, 16, scale=scale)
    return ca.Segmenter.from_module(model, classes, preprocessing, 0.4, 0.3, data=f"folder:{data}")


def probabilities(member: ca.Segmenter, image: Path) -> NDArray[np.float64]:
    """(classes, height, width), in the order of CLASSES."""
    preprocessing = member.metadata.preprocessing
    pixels = preprocessing.read_scaled(open_image(image))
    maps = np.zeros((3, 36, 44))
    for rows, columns, logits in logit_windows(member.classifier.logits, pixels, preprocessing, (36, 44)):
        maps[:, rows, columns] = logits.double().softmax(0).numpy()
    ordered: NDArray[np.float64] = maps[[member.classes.index(name) for name in CLASSES]]
    return ordered


def test_probabilities_are_averaged_by_the_names_of_the_classes(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [segmenter(0, shapes), segmenter(1, shapes, PERMUTED), segmenter(2, shapes)]
    runs = [str(member.save(tmp_path / f"run{i}").parent) for i, member in enumerate(members)]
    confusions = np.zeros((4, 3, 3), np.int64)
    loss = 0.0
    for number in range(6):
        target = np.asarray(Image.open(shapes / f"test/masks/{number}.png"))
        maps = [probabilities(member, shapes / f"test/images/{number}.png") for member in members]
        maps.append(np.mean(maps, axis=0))
        for confusion, predicted in zip(confusions, maps, strict=True):
            np.add.at(confusion, (target, predicted.argmax(axis=0)), 1)
        loss -= np.log(np.take_along_axis(maps[-1], target[None].astype(int), 0)).sum()
    assert main(["eval", *runs, "--out", str(tmp_path / "report"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    num_predicted = (confusions.sum(axis=1) > 0).sum(axis=1)
    assert num_predicted.min() > 1
    assert num_predicted[-1] == 3
    assert document["confusion"] == confusions[-1].tolist()
    assert document["loss"] == pytest.approx(loss / confusions[-1].sum(), rel=1e-6)
    assert (document["models"], document["n"], document["instances"]["n"]) == (3, 6, 12)
    expected = [float(mean_iou(confusion)) for confusion in confusions]
    assert [member["mean_iou"] for member in document["members"]] == pytest.approx(expected[:3])
    assert document["versus_best"]["member"] == int(np.argmax(expected[:3]))
    assert document["versus_best"]["difference"] == pytest.approx(expected[3] - max(expected[:3]))
    report = (tmp_path / "report" / "report.md").read_text()
    assert report.startswith("# Ensemble of 3 on ")
    assert "Mean IU of the ensemble minus that of its best member" in report
    assert main(["eval", *runs]) == 0
    printed = capsys.readouterr().out
    assert "6 whole images, 3 networks" in " ".join(printed.split())
    assert all(f"{score:.2f}" in printed for score in expected)


def test_a_single_network_has_the_same_figures_alone_and_as_a_member(shapes: Path) -> None:
    first, second = segmenter(0, shapes).classifier, segmenter(1, shapes).classifier
    alone = ca.evaluate(second)
    member = ca.evaluate([first, second])["members"][1]
    for key in ("mean_iou", "pixel_accuracy", "loss", "n"):
        assert member[key] == alone[key] == alone["members"][0][key]


def test_an_evaluation_is_cached_with_its_objects_and_no_network_runs_again(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = segmenter(0, shapes).save(tmp_path / "run").parent
    data = make_shapes(tmp_path / "damaged")
    damaged = data / "test/images/3.png"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    names = tmp_path / "names.txt"
    names.write_text("0.png\n5.png\n")
    requests: list[dict[str, Any]] = [{"data": f"folder:{data}"}, {"subset": names}, {"split": "val"}]
    documents = [ca.evaluate(run, **request) for request in requests]
    assert documents[0]["unreadable"]
    assert documents[0]["instances"]["n"] == 10
    assert [document["n"] for document in documents] == [5, 2, 4]

    def forbid(*_: object) -> None:
        raise AssertionError("a network runs")

    monkeypatch.setattr(Classifier, "logits", forbid)
    for request, document in zip(requests, documents, strict=True):
        (member,) = document.pop("members")
        again = ca.evaluate(run, **request)
        assert again.pop("members") == [member | {"cached": True}]
        assert again == document
        assert not member["cached"]
    assert main(["eval", str(run), "--split", "val"]) == 0
    assert f"from cached predictions: {run}" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="a network runs"):
        ca.evaluate(run, split="train")


@pytest.mark.parametrize("damage", ["bytes", "weights", "masks", "instances"])
def test_what_has_changed_is_evaluated_again(damage: str, tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "shapes")
    run = segmenter(0, data).save(tmp_path / "run").parent
    before = ca.evaluate(run)
    (entry,) = (run / "predictions").glob("test-whole-*.safetensors")
    if damage == "bytes":
        entry.write_bytes(entry.read_bytes()[:-9])
    elif damage == "weights":
        segmenter(1, data).save(run, overwrite=True)
    else:
        file = data / "test" / damage / "2.png"
        Image.fromarray(np.rot90(np.asarray(Image.open(file)), 2)).save(file)
    after = ca.evaluate(run)
    assert not after["members"][0]["cached"]
    assert any("was evaluated again" in note for note in after["notes"]) == (damage == "bytes")
    assert (after["confusion"] == before["confusion"]) == (damage in ("bytes", "instances"))
    assert ca.evaluate(run)["members"][0]["cached"]


def test_networks_of_other_inputs_are_not_averaged(shapes: Path) -> None:
    with pytest.raises(UsageError, match="#1 and #2 see images at different scales or in different tiles"):
        ca.evaluate([segmenter(0, shapes).classifier, segmenter(1, shapes, scale=0.5).classifier])
