"""Which images an evaluation takes: of any set, whatever its splits, without those that were trained on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.ensemble_members import CLASSES, make_classifier, make_photos, make_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import convatlas as ca
from convatlas.classifier import Classifier
from convatlas.classifier.training_images import FILE_NAME, write_training_images
from convatlas.data import open_evaluation_dataset
from convatlas.errors import UsageError, UserError


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return make_classifier(0, data="folder:elsewhere")


def write_image(file: Path, number: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(file)


def write_images(folder: Path, count: int, start: int = 0) -> str:
    """Write `count` different images for each of two classes: FOLDER/CLASS/NUMBER.png."""
    for number in range(start, start + count):
        for offset, name in enumerate(CLASSES[:2]):
            write_image(folder / name / f"{number}.png", 2 * number + offset)
    return f"folder:{folder}"


def run_trained_on(folder: Path, name: str, split: str = "train", data_sha256: str = "") -> Path:
    """A run's folder whose training images are those of a split of the data set `name`."""
    run = make_run(folder, make_classifier(0, data=name, run="1234", data_sha256=data_sha256))
    hashes = open_evaluation_dataset(name, as_trained=True).splits[split].content_hashes
    write_training_images(run / FILE_NAME, hashes, "1234", name)
    return run


def test_every_image_of_a_set_without_splits_is_evaluated(classifier: Classifier, tmp_path: Path) -> None:
    name = write_images(tmp_path / "photos", 50)
    document = ca.evaluate(classifier, name)
    assert (document["n"], document["split"]) == (100, "all")
    assert f"{name} has no splits: all of its 100 images are taken" in document["notes"]
    with pytest.raises(UsageError, match="has no splits: leave out --split test, and every image is taken"):
        ca.evaluate(classifier, name, split="test")


def test_a_set_that_is_only_a_test_set_is_evaluated(classifier: Classifier, tmp_path: Path) -> None:
    write_images(tmp_path / "photos" / "test", 3)
    document = ca.evaluate(classifier, f"folder:{tmp_path / 'photos'}")
    assert (document["n"], document["split"]) == (6, "test")


def test_a_split_may_lack_classes(classifier: Classifier, tmp_path: Path) -> None:
    write_images(tmp_path / "train", 1)
    write_images(tmp_path / "test", 3)
    shutil.rmtree(tmp_path / "test" / CLASSES[1])
    document = ca.evaluate(classifier, f"folder:{tmp_path}")
    assert document["n"] == 3
    assert f"test has no images of 1 of the 2 classes: {CLASSES[1]}" in document["notes"]


def test_without_a_test_split_one_is_chosen_by_name(classifier: Classifier, tmp_path: Path) -> None:
    write_images(tmp_path / "train", 2)
    write_images(tmp_path / "val", 3)
    name = f"folder:{tmp_path}"
    with pytest.raises(UsageError, match="has train, val but no test images: choose with --split"):
        ca.evaluate(classifier, name)
    assert ca.evaluate(classifier, name, split="val")["n"] == 6
    assert ca.evaluate(classifier, name, split="all")["n"] == 10


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(
        st.tuples(st.sampled_from(("", "train", "val", "test")), st.sampled_from(CLASSES), st.integers(0, 9)),
        min_size=1,
        max_size=12,
        unique=True,
    )
)
def test_all_counts_every_image_once_whatever_the_layout(
    classifier: Classifier, places: list[tuple[str, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("photos")
    with_splits = [place for place in places if place[0]] or places
    for split, name, number in with_splits:
        write_image(folder / split / name / f"{number}.png", number)
    assert ca.evaluate(classifier, f"folder:{folder}", split="all")["n"] == len(with_splits)


def test_images_that_were_trained_on_are_left_out_counted_and_named(tmp_path: Path) -> None:
    name = write_images(tmp_path / "photos", 20)
    run = run_trained_on(tmp_path / "run", name, split="all")
    write_images(tmp_path / "photos", 80, start=20)
    document = ca.evaluate(run)
    trained_on = document["trained_on"]
    assert trained_on["n"] > 0
    assert trained_on["left_out"]
    assert document["n"] == 20 - trained_on["n"]
    assert {Path(file).suffix for file in trained_on["files"]} == {".png"}
    (note,) = (note for note in document["notes"] if "trained on" in note)
    assert note.startswith(f"{trained_on['n']} of the 20 images were trained on ({trained_on['files'][0]}")
    everything = ca.evaluate(run, split="all")
    assert (everything["n"], everything["trained_on"]["n"]) == (160, 40)
    copy = shutil.copytree(tmp_path / "photos", tmp_path / "copy")
    assert ca.evaluate(ca.load(run), f"folder:{copy}")["n"] == 160


def test_training_images_are_evaluated_on_request(tmp_path: Path) -> None:
    name = write_images(tmp_path / "photos", 20)
    run = run_trained_on(tmp_path / "run", name)
    document = ca.evaluate(run, split="train")
    assert (document["n"], document["trained_on"]) == (32, {"n": 32, "left_out": False, "files": []})
    shutil.rmtree(tmp_path / "photos")
    write_images(tmp_path / "photos", 20)
    train = open_evaluation_dataset(name, as_trained=True).splits["train"]
    for index in range(len(train)):
        source = tmp_path / "photos" / train.images.name(index)
        target = tmp_path / "known" / "test" / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    with pytest.raises(UserError, match=r"all images of .*known, test, were trained on"):
        ca.evaluate(run, f"folder:{tmp_path / 'known'}")


def test_the_test_split_of_the_training_itself_is_counted_whole(tmp_path: Path) -> None:
    name = make_photos(tmp_path / "photos")
    train_image = next((tmp_path / "photos" / "train" / CLASSES[0]).iterdir())
    shutil.copy(train_image, tmp_path / "photos" / "test" / CLASSES[0] / "again.png")
    sha256 = open_evaluation_dataset(name, as_trained=True).sha256
    same = ca.evaluate(run_trained_on(tmp_path / "same", name, data_sha256=sha256))
    assert (same["n"], same["trained_on"]["n"], same["trained_on"]["left_out"]) == (25, 1, False)
    assert any("and are counted, as in that training" in note for note in same["notes"])
    other = ca.evaluate(run_trained_on(tmp_path / "other", name))
    assert (other["n"], other["trained_on"]["left_out"]) == (24, True)


def test_a_run_whose_training_images_are_gone_is_still_evaluated(tmp_path: Path) -> None:
    name = make_photos(tmp_path / "photos")
    run = run_trained_on(tmp_path / "run", name)
    shutil.rmtree(tmp_path / "photos" / "train")
    assert ca.evaluate(run)["n"] == 24


def test_the_list_of_another_runs_images_is_not_taken(tmp_path: Path) -> None:
    name = write_images(tmp_path / "photos", 5)
    run = run_trained_on(tmp_path / "run", name, split="all")
    write_training_images(run / FILE_NAME, [], "another run", name)
    assert ca.load(run).trained_on() is None
