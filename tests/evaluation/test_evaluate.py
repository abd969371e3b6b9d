"""One classifier or several: what they say together, what is kept, and what cannot be asked."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from helpers.ensemble_members import CLASSES, member, permuted, photographs, saved
from PIL import Image
from sklearn.metrics import log_loss, top_k_accuracy_score

import convatlas as ca
from convatlas import models
from convatlas.classifier import Classifier, model_file
from convatlas.cli.main import main
from convatlas.data.transforms.multi_crop import FullImage
from convatlas.data.transforms.preprocessing import Preprocessing, center_crop_preprocessing
from convatlas.data.transforms.random_crop import RandomResizedCrop, ScaleJitter
from convatlas.errors import UsageError, UserError
from convatlas.evaluation import prediction_cache, predictions, protocols
from convatlas.evaluation.predict import Predictions
from convatlas.models.fully_convolutional import FullyConvolutional
from convatlas.recipes import Epochs

N = 24  # test images
CROPS = ("center", "10", "12", "144", "dense", "multiscale")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return photographs(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture
def four(data: str, tmp_path: Path) -> list[Path]:
    """Run folders of four networks that disagree."""
    return [saved(tmp_path / f"run{seed}", member(seed, data=data)) for seed in range(4)]


def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no network can be asked."""

    def refuse(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(Classifier, "logits", refuse)


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """Without what tells of the way to it."""
    found: dict[str, Any] = json.loads(msgspec.json.encode(document))
    for one in found["members"]:
        one.pop("reused"), one.pop("weights")
    return found


@pytest.mark.parametrize("crops", CROPS)
def test_an_ensemble_of_one_is_the_model(crops: str, data: str, four: list[Path]) -> None:
    alone = ca.evaluate(ca.load(four[0]), crops=crops)
    together = ca.evaluate([four[0]], crops=crops)
    assert plain(alone) == plain(together)
    assert alone["models"] == 1
    assert alone["crops"] == crops
    assert alone["n"] == N
    assert {key: alone[key] for key in ("top1", "top5", "loss", "n")} == {
        key: alone["members"][0][key] for key in ("top1", "top5", "loss", "n")
    }
    stored = predictions.read_predictions(next((four[0] / "answers").iterdir()))
    assert stored.logits.shape == (N, 6)
    assert 100 * np.mean(stored.logits.argmax(1) == stored.labels) == pytest.approx(alone["top1"])


def test_members_are_averaged_by_their_probabilities(four: list[Path]) -> None:
    found = ca.evaluate(four, crops="10")
    stored = [predictions.read_predictions(next((folder / "answers").iterdir())) for folder in four]
    labels = stored[0].labels
    mean = np.mean([scipy.special.softmax(one.logits.astype(np.float64), axis=1) for one in stored], axis=0)
    assert found["models"] == 4
    assert found["top1"] == pytest.approx(100 * top_k_accuracy_score(labels, mean, k=1, labels=range(6)))
    assert found["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, mean, k=5, labels=range(6)))
    assert found["loss"] == pytest.approx(log_loss(labels, mean, labels=range(6)), rel=1e-5)
    assert [one["top1"] for one in found["members"]] == pytest.approx([100 * np.mean(one.logits.argmax(1) == labels) for one in stored])
    assert len({one["top1"] for one in found["members"]}) > 1
    best = int(np.argmax([one["top1"] for one in found["members"]]))
    against = found["against_best"]
    assert against["member"] == best
    assert against["n"] == N
    right = [mean.argmax(1) == labels, stored[best].logits.argmax(1) == labels]
    assert (against["only_second"], against["only_first"]) == (int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))


def test_every_subset_has_the_digits_of_an_evaluation_of_its_own(four: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = ca.evaluate(four, subsets=True)
    assert [len(one["members"]) for one in found["subsets"]] == [1] * 4 + [2] * 6 + [3] * 4 + [4]
    assert {tuple(one["members"]) for one in found["subsets"]} == {s for k in (1, 2, 3, 4) for s in itertools.combinations(range(4), k)}
    silent(monkeypatch)
    for one in found["subsets"]:
        own = ca.evaluate([four[i] for i in one["members"]])
        assert {key: own[key] for key in ("top1", "top5", "loss", "n", "top1_interval")} == {
            key: one[key] for key in one if key != "members"
        }
    for row in found["by_size"]:
        top1 = [one["top1"] for one in found["subsets"] if len(one["members"]) == row["size"]]
        assert (row["subsets"], row["top1_lowest"], row["top1_highest"]) == (len(top1), min(top1), max(top1))
        assert row["top1_mean"] == pytest.approx(np.mean(top1))


def test_members_with_their_classes_in_another_order_agree(data: str) -> None:
    one = member(0, data=data)
    other = permuted(one, (3, 5, 0, 1, 4, 2))
    alone, together, turned = ca.evaluate(one), ca.evaluate([one, other]), ca.evaluate([other, one])
    for key in ("top1", "top5", "n", "confusion", "per_class"):
        assert together[key] == alone[key]
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert [row["name"] for row in turned["per_class"]] == list(other.metadata.classes)
    assert {row["name"]: row["top1"] for row in turned["per_class"]} == {row["name"]: row["top1"] for row in alone["per_class"]}


def test_what_was_answered_is_kept_and_no_network_asked_again(four: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = {crops: ca.evaluate(four[:2], crops=crops) for crops in ("center", "10")}
    assert not any(one["reused"] for document in first.values() for one in document["members"])
    silent(monkeypatch)
    for crops, before in first.items():
        again = ca.evaluate(four[:2], crops=crops)
        assert all(one["reused"] for one in again["members"])
        assert plain(again) == plain(before)
    with pytest.raises(AssertionError, match="a network was asked"):
        ca.evaluate(four[:2], crops="12")


def test_other_weights_precision_or_data_are_asked_anew(data: str, tmp_path: Path) -> None:
    folder, photos = tmp_path / "run", tmp_path / "photos"
    name = photographs(photos)
    saved(folder, member(0, data=name))
    before = ca.evaluate(folder)
    assert ca.evaluate(folder)["members"][0]["reused"]
    one = ca.load(folder)
    with torch.no_grad():
        one.model.get_parameter("fc.bias")[0] += 1e-3
    model_file.write_model_file(folder / "model.safetensors", one.metadata, one.model, one.normalizer)
    after = ca.evaluate(folder)
    assert not after["members"][0]["reused"]
    assert after["loss"] != before["loss"]
    assert len([*(folder / "answers").iterdir()]) == 1  # the old ones have gone
    model_file.write_model_file(
        folder / "model.safetensors", one.metadata.replace(preprocessing=center_crop_preprocessing(3, (32, 32))), one.model, one.normalizer
    )
    assert not ca.evaluate(folder)["members"][0]["reused"]
    Image.new("RGB", (40, 40), "red").save(photos / "test" / "cat" / "cat0.png")
    assert not ca.evaluate(folder)["members"][0]["reused"]
    assert not ca.evaluate(folder, split="val")["members"][0]["reused"]
    assert ca.evaluate(folder)["members"][0]["reused"]


def test_the_same_weights_in_another_edition_are_another_network(data: str, tmp_path: Path) -> None:
    one = member(0, "resnet50", data=data)
    before = ca.evaluate(saved(tmp_path / "run", one))
    card = one.metadata.replace(network=models.Architecture("resnet50", "torchvision", one.metadata.network.arguments))
    model_file.write_model_file(tmp_path / "run" / "model.safetensors", card, one.model, one.normalizer)
    after = ca.evaluate(tmp_path / "run")
    assert not after["members"][0]["reused"]
    assert after["loss"] != before["loss"]


def test_answers_that_would_fill_a_disk_are_not_kept(four: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_cache, "MAX_BYTES", N * 6 * 4 - 1)
    assert "are not kept" in ca.evaluate(four[0])["notes"][0]
    assert not (four[0] / "answers").exists()


@pytest.mark.parametrize("damage", ["cut", "other format", "a folder"])
def test_kept_answers_that_are_damaged_are_asked_for_again(damage: str, four: list[Path]) -> None:
    before = ca.evaluate(four[0])
    file = next((four[0] / "answers").iterdir())
    content = file.read_bytes()
    if damage == "a folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(content[:-9] if damage == "cut" else b"{}" + content)
    found = ca.evaluate(four[0])
    assert not found["members"][0]["reused"]
    assert "the network was asked again" in found["notes"][0]
    assert found["top1"] == before["top1"]


def test_where_answers_cannot_be_kept_the_evaluation_goes_on(four: list[Path]) -> None:
    (four[0] / "answers").write_text("in the way")
    found = ca.evaluate(four[0])
    assert "could not be kept" in found["notes"][0]
    assert found["n"] == N


def test_answers_from_another_environment_count_and_that_is_said(four: list[Path]) -> None:
    ca.evaluate(four[0])
    file = next((four[0] / "answers").iterdir())
    stored = predictions.read_predictions(file)
    card = stored.metadata.replace(environment=stored.metadata.environment | {"torch": "1.0"})
    found = ca.evaluate(four[0])
    assert found["notes"] == []
    predictions.write_predictions(file, Predictions(stored.logits, stored.labels, stored.indices, []), card)
    (note,) = ca.evaluate(four[0])["notes"]
    assert "another environment (torch: " in note


def test_a_lone_file_keeps_its_answers_beside_it(data: str, tmp_path: Path) -> None:
    one = member(0, data=data)
    for name in ("model.safetensors", "best.safetensors"):
        model_file.write_model_file(tmp_path / name, one.metadata, one.model, one.normalizer)
        ca.evaluate(tmp_path / name)
    assert {path.parent.name for path in tmp_path.glob("*/*.safetensors")} == {"answers", "best-answers"}


def test_images_that_cannot_be_read_are_listed_and_kept_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = photographs(tmp_path / "photos")
    (tmp_path / "photos" / "test" / "dog" / "dog1.png").write_bytes(b"torn")
    runs = [saved(tmp_path / f"run{seed}", member(seed, data=name)) for seed in range(2)]
    found = ca.evaluate(runs, crops="10")
    silent(monkeypatch)
    for document in (found, ca.evaluate(runs, crops="10")):
        assert document["n"] == N - 1
        ((one,),) = (document["unread"],)
        assert one["file"].endswith("dog1.png")
        assert "not a readable" in one["reason"]


def dense_by_hand(one: Classifier, file: Path, scales: tuple[int, ...], average: str) -> np.ndarray:
    """Of a picture at each of these shorter sides, and its mirror image, the mean class scores, averaged."""
    photo = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None]
    height, width = photo.shape[2:]
    rows = []
    for shorter in scales:
        size = tuple(max(shorter, int(side * shorter / min(height, width))) for side in (height, width))
        whole = F.interpolate(photo, size, mode="bilinear", antialias=True)
        for image in (whole, whole.flip(3)):
            mean = one.normalizer.mean.mean((1, 2))[:, None, None]
            standard = (image / 255 - mean) / one.normalizer.std
            rows.append(FullyConvolutional(one.model, (32, 32))(standard).mean((2, 3))[0])  # type: ignore[arg-type]
    stacked = torch.stack(rows).double().numpy()
    found: np.ndarray = (
        scipy.special.softmax(stacked, axis=1).mean(0) if average == "probabilities" else scipy.special.softmax(stacked.mean(0))
    )
    return found


@pytest.mark.parametrize(
    ("crops", "scales", "average"), [("dense", (37,), "probabilities"), ("multiscale", (32, 37, 55, 69, 91), "scores")]
)
def test_dense_evaluation_is_that_of_vggs_and_resnets_papers(
    crops: str, scales: tuple[int, ...], average: str, data: str, tmp_path: Path
) -> None:
    mean = torch.linspace(0.2, 0.7, 3 * 32 * 32).view(3, 32, 32)  # a mean image, as ResNet subtracts it
    folder = saved(tmp_path / "run", member(3, data=data, mean=mean))
    ca.evaluate(folder, crops=crops)
    stored = predictions.read_predictions(next((folder / "answers").iterdir()))
    files = sorted(Path(data.removeprefix("folder:"), "test").glob("*/*.png"))
    with torch.no_grad():
        for place in (0, 7, 23):
            expected = dense_by_hand(ca.load(folder), files[place], scales, average)
            np.testing.assert_allclose(scipy.special.softmax(stored.logits[place].astype(np.float64)), expected, rtol=2e-4)


def test_dense_evaluation_is_at_the_scale_of_training() -> None:
    for crop, views in (
        (ScaleJitter(shorter=(256, 512)), FullImage(scales=(384,))),  # arXiv:1409.1556, sec. 4.1: 0.5 (S_min + S_max)
        (ScaleJitter(shorter=(256, 480)), FullImage(scales=(368,))),
        (ScaleJitter(shorter=(256, 256)), FullImage(scales=(256,))),
        (RandomResizedCrop(), FullImage(scales=(256,))),
        (None, FullImage(scales=(256,))),
    ):
        assert protocols.get_protocol("dense", msgspec.to_builtins(crop)).views == views
    assert protocols.get_protocol("multiscale", msgspec.to_builtins(ScaleJitter())).views == FullImage(scales=(224, 256, 384, 480, 640))


def test_a_training_tells_evaluation_how_it_cut(tmp_path: Path) -> None:
    name = photographs(tmp_path / "photos", classes=CLASSES[:2])
    run = ca.Run(model="resnet20_cifar", data=name)
    recipe = run.recipe.replace(crop=ScaleJitter(shorter=(256, 512)), batch=4, budget=Epochs(1))
    done = ca.train(run.replace(recipe=recipe, precision="fp32"), out=tmp_path / "run")
    found = ca.evaluate(done.out, crops="dense")
    assert found["members"][0]["views"] == {"type": "Dense", "scales": (384,), "mirrored": True, "paper_size": 224}


# The images that a file names


def listed(file: Path, *lines: str, end: str = "\n") -> Path:
    file.write_text(end.join(lines) + end, "utf-8", newline="")
    return file


def test_a_subset_by_file_is_those_images_in_any_order_and_form(data: str, four: list[Path], tmp_path: Path) -> None:
    root = Path(data.removeprefix("folder:"))
    forms = ["cat2.png", "dog/dog0.png", "test/hen/hen3.png", f"{root}/test/owl/owl1.png"]
    one = ca.evaluate(four[0], subset=listed(tmp_path / "a.txt", *forms))
    other = ca.evaluate(
        ca.load(four[0]), subset=listed(tmp_path / "b.txt", "\ufeff" + forms[2], "", *forms[:2], f"  {forms[3]}", end="\r\n")
    )
    assert plain(one) | {"subset": ""} == plain(other) | {"subset": ""}
    assert one["n"] == 4
    assert [row["n"] for row in one["per_class"]] == [1, 1, 0, 1, 1, 0]
    ca.evaluate(four[0])
    files = {path.name: predictions.read_predictions(path) for path in (four[0] / "answers").iterdir()}
    some, whole = (next(one for one in files.values() if len(one.labels) == n) for n in (4, N))
    assert some.indices.tolist() == [2, 4, 15, 17]
    assert np.array_equal(some.logits, whole.logits[some.indices])


def test_a_subset_of_what_is_kept_asks_no_network(four: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = ca.evaluate(ca.load(four[0]), crops="10", subset=listed(tmp_path / "a.txt", "cat2.png", "owl1.png"))
    ca.evaluate(four[0], crops="10")
    silent(monkeypatch)
    found = ca.evaluate(four[0], crops="10", subset=tmp_path / "a.txt")
    assert plain(found) == plain(alone)
    assert found["n"] == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["cat0.png", "cow0.png", "emu.png"], r"line 2: 'cow0.png' is no image of folder:.*, test: expected names such as .*cat0.png"),
        (["at0.png"], r"line 1: 'at0.png' is no image"),
        (["train/cat/cat0.png"], r"line 1: 'train/cat/cat0.png' is no image"),
        (["cat0.png", "", "cat/cat0.png"], r"line 3: 'cat/cat0.png' is the image of line 1 again"),
        (["", "  "], r"names no image"),
        (["a" * 5000], r"line 1: 'a{200}' is no image"),
        (["\x1b]0;x\x07.png"], r"line 1: '\ufffd\]0;x\ufffd.png' is no image"),
    ],
)
def test_a_subset_that_cannot_be_is_named(lines: list[str], message: str, data: str, four: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        ca.evaluate(four[0], subset=listed(tmp_path / "list.txt", *lines))


def test_a_name_that_two_images_have_needs_its_folder(tmp_path: Path) -> None:
    name = photographs(tmp_path / "photos")
    for kind in ("cat", "dog"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / "photos" / "test" / kind / "same.png")
    with pytest.raises(UsageError, match=r"line 1: 'same.png' may be .*cat/same.png or .*dog/same.png: name the folder too"):
        ca.evaluate(member(0, data=name), subset=listed(tmp_path / "list.txt", "same.png"))
    assert ca.evaluate(member(0, data=name), subset=listed(tmp_path / "list.txt", "dog/same.png"))["n"] == 1


def test_a_list_that_is_none_is_named(four: list[Path], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00cat")
    with pytest.raises(UserError, match="is no text in UTF-8"):
        ca.evaluate(four[0], subset=tmp_path / "list.txt")
    with pytest.raises(UserError, match=r"cannot read .*nothing.txt \(No such file or directory\)"):
        ca.evaluate(four[0], subset=tmp_path / "nothing.txt")
    with pytest.raises(UserError, match="Is a directory"):
        ca.evaluate(four[0], subset=tmp_path)


def test_images_without_files_are_named_by_their_numbers(tmp_path: Path) -> None:
    one = member(
        0, "lenet5", classes=tuple(map(str, range(10))), geometry=Preprocessing(channels=1, source=(8, 8), size=(32, 32), fit="resize")
    )
    found = ca.evaluate(one, "digits", subset=listed(tmp_path / "list.txt", "#7", "#100", "#3"))
    assert found["n"] == 3


# What cannot be asked


def test_what_does_not_fit_is_one_sentence(data: str, four: list[Path], tmp_path: Path) -> None:
    one = ca.load(four[0])
    with pytest.raises(UsageError, match="unknown protocol '11': the nearest is '12'"):
        ca.evaluate(one, crops="11")
    with pytest.raises(UsageError, match="unknown split 'tests': the nearest is 'test'"):
        ca.evaluate(one, split="tests")
    with pytest.raises(UsageError, match=r"run0 and .*run0/model.safetensors are the same network: name each once"):
        ca.evaluate([four[0], four[1], four[0] / "model.safetensors"])
    with pytest.raises(UsageError, match="needs at least one"):
        ca.evaluate([])
    with pytest.raises(UsageError, match=f"#2 has other classes than the first of the ensemble: only the first has '{CLASSES[5]}'"):
        ca.evaluate([one, member(1, data=data, classes=CLASSES[:5])])
    with pytest.raises(UsageError, match=f"#2 has other classes than the first of the ensemble: the first lacks '{CLASSES[5]}'"):
        ca.evaluate([member(1, data=data, classes=CLASSES[:5]), one])
    with pytest.raises(UsageError, match=r"trained on different data, .* and folder:elsewhere: say which with --data"):
        ca.evaluate([one, member(1, data="folder:elsewhere")])
    with pytest.raises(UsageError, match="does not say what it was trained on"):
        ca.evaluate(member(1))
    with pytest.raises(UsageError, match="--subsets takes at most 10 members, not 11"):
        ca.evaluate([member(seed, data=data) for seed in range(11)], subsets=True)
    with pytest.raises(UsageError, match=r"sees images of 32x48, and the crops of Krizhevsky 2012, sec. 4.1 are squares"):
        ca.evaluate(member(1, data=data, geometry=center_crop_preprocessing(3, (32, 48))), crops="10")
    assert ca.evaluate(member(1, data=data, geometry=center_crop_preprocessing(3, (32, 48))))["n"] == N


def test_nothing_is_computed_before_all_members_fit(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    silent(monkeypatch)
    with pytest.raises(UsageError, match="#2 sees images of 32x48"):
        ca.evaluate([member(0, data=data), member(1, data=data, geometry=center_crop_preprocessing(3, (32, 48)))], crops="144")


def test_a_network_that_labels_pixels_is_refused(data: str) -> None:
    one = member(0, data=data)
    one.metadata = one.metadata.replace(network=models.get_architecture("unet"))
    with pytest.raises(UsageError, match="#1 is a unet, which labels pixels"):
        ca.evaluate(one)


# The command


def test_the_command_says_it_in_words_in_json_and_as_a_folder(four: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", *map(str, four), "--crops", "10", "--subsets"]
    assert main([*words, "--out", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"^top-1 [\d.]+ %, 95 % interval [\d.]+ to [\d.]+, 24 images, 4 networks, 10 crops \(Krizhevsky 2012, sec. 4.1\)$",
        said,
        re.MULTILINE,
    )
    assert "expected calibration error" in said
    assert re.search(r"^ +4 +1 +[\d.]+ +[\d.]+ +[\d.]+$", said, re.MULTILINE)
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    stored = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert plain(document) == plain(stored)
    assert document["models"] == 4
    assert [one["weights"] for one in document["members"]] == [str(folder) for folder in four]
    assert len(document["subsets"]) == 15
    report = (tmp_path / "report" / "report.md").read_text()
    assert f"**Top-1 {document['top1']:.2f} %**" in report
    for picture in ("reliability.png", "confusion.png", "subsets.png"):
        assert f"({picture})" in report
        with Image.open(tmp_path / "report" / picture) as image:
            assert min(image.size) > 200
    assert main([*words, "--out", str(tmp_path / "report")]) == 0  # its own folder it writes again


def test_a_folder_that_holds_anything_else_is_left_alone(four: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(four[1].iterdir())
    assert main(["eval", str(four[0]), "--out", str(four[1])]) == 2
    assert "is not empty and holds no evaluation: give another folder with --out" in capsys.readouterr().err
    assert sorted(four[1].iterdir()) == before
    (tmp_path / "file").write_text("")
    assert main(["eval", str(four[0]), "--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main(["eval"]) == 2
    assert "eval needs at least one run's folder" in capsys.readouterr().err


def test_a_picture_that_cannot_be_read_makes_it_exit_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = photographs(tmp_path / "photos")
    (tmp_path / "photos" / "test" / "dog" / "dog\x1b1.png").write_bytes(b"torn")
    run = saved(tmp_path / "run", member(0, data=name))
    assert main(["eval", str(run), "--crops", "12", "--out", str(tmp_path / "report")]) == 1
    captured = capsys.readouterr()
    assert "not counted" in captured.err
    assert "unstated by the paper: what the 12 crops are" in captured.out
    assert "\x1b" not in captured.out + captured.err + (tmp_path / "report" / "report.md").read_text()
