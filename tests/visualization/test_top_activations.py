"""First filters, strongest activations, and the pictures of them: on a small classifier of digits with planted filters."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import shake
from PIL import Image

from convatlas import models, visualization
from convatlas.classifier import FORMAT, Classifier, ClassifierMetadata, write_model_file
from convatlas.cli.main import main
from convatlas.data import open_dataset
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.errors import UsageError, UserError
from convatlas.visualization import plots
from convatlas.visualization.feature_maps import forward_with_maps
from convatlas.visualization.filters import draw_filters


def classifier_of_digits(name: str = "vgg11", width: float = 0.05, side: int = 32) -> Classifier:
    model = models.create_model(name, num_classes=10, in_chans=1, width=width, image_size=side)
    shake(model)
    assert model.architecture is not None
    card = ClassifierMetadata(
        format=FORMAT,
        network=model.architecture,
        classes=tuple(f"digit {i}" for i in range(10)),
        preprocessing=fixed_size_preprocessing(1, (8, 8), (side, side)),
        precision="fp32",
        batch=100,
        provenance={"data": "digits"},
        metrics={},
    )
    return Classifier(card, model, Normalizer(torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 0.5)))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return classifier_of_digits()


def test_the_strongest_are_those_that_a_look_at_every_image_finds(classifier: Classifier) -> None:
    split = open_dataset("digits").splits["val"]
    images, _ = classifier.metadata.preprocessing.load_batch(split.images, np.arange(len(split)))
    with torch.inference_mode():
        maps = forward_with_maps(classifier.model, classifier.normalizer(images), "relu3_2").maps
    peaks = maps.amax((2, 3))
    found = visualization.top_activations(classifier, path="relu3_2", maps=(2, 5), count=4)
    assert list(found) == [2, 5]
    for number, activations in found.items():
        expected = sorted(range(len(split)), key=lambda i: -float(peaks[i, number]))[:4]
        assert [a.image for a in activations] == expected
        for a in activations:
            assert a.value == pytest.approx(float(peaks[a.image, number]), rel=1e-5)
            assert a.value == pytest.approx(float(maps[a.image, number][a.unit]), rel=1e-5)
    assert all(a.value >= b.value for activations in found.values() for a, b in itertools.pairwise(activations))


def test_a_patch_is_what_the_activation_sees_of_its_image_beside_its_projection(classifier: Classifier) -> None:
    split = open_dataset("digits").splits["val"]
    for activation in visualization.top_activations(classifier, path="relu2_1", maps=(1,), count=5)[1]:
        assert activation.patch.shape == activation.reconstruction.shape == (1, 8, 8)  # 3x3, pooled, 3x3: 8 pixels
        images, _ = classifier.metadata.preprocessing.load_batch(split.images, np.array([activation.image]))
        row, column = (min(max(2 * u - 3, 0), 24) for u in activation.unit)  # 2 pixels a unit, from 3 before the first
        assert torch.equal(activation.patch, images[0, :, row : row + 8, column : column + 8])
        whole = visualization.deconv_reconstruct(
            classifier.model, classifier.normalizer(images), "relu2_1", 1, torch.tensor([activation.unit])
        )
        torch.testing.assert_close(activation.reconstruction, whole[0, :, row : row + 8, column : column + 8])
        torch.testing.assert_close(activation.reconstruction.abs().sum(), whole.abs().sum())  # nothing outside


def test_six_maps_that_something_excites_are_chosen_and_dead_ones_are_not(classifier: Classifier) -> None:
    found = visualization.top_activations(classifier, path="relu4_2", count=1)
    assert len(found) == 6
    assert all(activations[0].value > 0 for activations in found.values())


def test_what_does_not_exist_is_named(classifier: Classifier) -> None:
    with pytest.raises(UsageError, match="relu2_1 has maps 0 to 5: there is no map 6"):
        visualization.top_activations(classifier, path="relu2_1", maps=(6,))
    with pytest.raises(UsageError, match="unknown split 'tests': the nearest is 'test'"):
        visualization.top_activations(classifier, split="tests")
    with pytest.raises(UsageError, match="1 channels, the classifier takes 3"):
        visualization.top_activations(
            Classifier(
                classifier.metadata.replace(preprocessing=fixed_size_preprocessing(3, (8, 8), (32, 32))),
                classifier.model,
                classifier.normalizer,
            )
        )
    with torch.no_grad():
        dead = classifier_of_digits()
        for parameter in dead.model.parameters():
            parameter.zero_()
    with pytest.raises(UserError, match="no image of the data excites any map of relu5_2"):
        visualization.top_activations(dead)


@pytest.mark.parametrize(
    ("shape", "height", "width"), [((8, 3, 3, 3), 1, 8), ((32, 1, 5, 5), 4, 8), ((4, 2, 3, 3), 1, 8), ((96, 3, 7, 7), 7, 14)]
)
def test_filters_lie_side_by_side_around_grey(shape: tuple[int, ...], height: int, width: int) -> None:
    filters = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    filters[0] = 0
    picture = draw_filters(filters)
    assert picture.dtype == np.uint8
    side = (picture.shape[1] + 2) // width
    assert picture.shape == (height * side - 2, width * side - 2, 3)
    times = (side - 2) // shape[3]
    assert (picture[: side - 2, : side - 2] == 128).all()
    second = picture[: side - 2, side : 2 * side - 2][::times, ::times]
    expected = (filters[1] if shape[1] != 2 else filters[0, 1:]) * torch.ones(3, 1, 1)
    peak = float(expected.abs().max())
    np.testing.assert_allclose((second.transpose(2, 0, 1) / 127.5 - 1) * (peak or 1), expected, atol=0.005 * (peak or 1))
    assert peak == 0 or second.min() == 0 or second.max() == 255


def test_the_first_filters_are_those_that_see_the_pixels() -> None:
    path, filters = visualization.first_filters(models.create_model("inception_v3", width=0.25))
    assert (path, filters.shape) == ("Conv2d_1a_3x3.conv", (8, 3, 3, 3))
    with pytest.raises(UserError, match="no convolution"):
        visualization.first_filters(torch.nn.Linear(3, 2))


def test_an_overlay_is_bright_where_the_map_is() -> None:
    image, found = torch.full((1, 40, 60), 100, dtype=torch.uint8), torch.zeros(4, 6)
    found[3, 1] = 2.0
    picture = plots.overlay(image, found).astype(int).sum(2)
    assert picture.shape == (40, 60)
    assert np.unravel_index(picture.argmax(), picture.shape)[0] >= 30
    assert 10 <= np.unravel_index(picture.argmax(), picture.shape)[1] < 20
    assert (plots.overlay(image, torch.zeros(4, 6)) == plots.overlay(image, torch.zeros(4, 6))[0, 0]).all()


def test_the_command_writes_a_picture_of_each_image_and_of_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = classifier_of_digits()
    write_model_file(tmp_path / "model.safetensors", made.metadata, made.model, made.normalizer)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((20, 30), 90, np.uint8)).save(tmp_path / folder / "seven.png")
    (tmp_path / "broken.png").write_text("no image")
    words = ["see", str(tmp_path / "model.safetensors"), *(str(tmp_path / name) for name in ("a/seven.png", "broken.png", "b/seven.png"))]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert "broken.png: not a readable" in captured.err
    assert sorted(path.name for path in (tmp_path / "sight").iterdir()) == ["filters.png", "seven-2.png", "seven.png"]
    with Image.open(tmp_path / "sight" / "seven.png") as picture:
        assert picture.width > 1000
    assert main(["see", str(tmp_path), "--layer", "relu3_2", "--map", "1", "--out", str(tmp_path / "out"), "--json"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["filters.png", "strongest.png"]
    assert f'"layer":"relu3_2","files":["{tmp_path}/out/strongest.png"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--class", "digit 11"], "unknown class 'digit 11': the nearest is 'digit 1'"),
        (["--layer", "relu9"], "unknown module 'relu9': the nearest is 'relu"),
        (["--layer", "fc7"], "fc7 gives a tensor of shape"),
        (["--map", "4000"], "there is no map 4000"),
        (["--split", "trial"], "unknown split 'trial'"),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_2(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = classifier_of_digits()
    write_model_file(tmp_path / "model.safetensors", made.metadata, made.model, made.normalizer)
    assert main(["see", str(tmp_path), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "sight").exists()


def test_pictures_are_pngs_whatever_a_file_is_called() -> None:
    tile = np.zeros((8, 8, 3), np.uint8)
    data = plots.row([plots.TitledImage(tile, "$x^2 \x1b]52;c; <b> 图 " + "long " * 30)] * 2)
    assert Image.open(io.BytesIO(data)).format == "PNG"
