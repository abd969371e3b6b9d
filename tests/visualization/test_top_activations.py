"""The strongest activations over a data set, against a pass over every image."""

import itertools

import numpy as np
import pytest
import torch

from convatlas import visualization
from convatlas.classifier import Classifier
from convatlas.data import open_dataset
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.errors import UsageError, UserError
from convatlas.visualization.feature_maps import forward_with_maps


def test_they_are_the_strongest_of_a_pass_over_every_image(classifier: Classifier) -> None:
    split = open_dataset("digits").splits["val"]
    images, _ = classifier.metadata.preprocessing.load_batch(split.images, np.arange(len(split)))
    with torch.inference_mode():
        maps = forward_with_maps(classifier.model, classifier.normalizer(images), "relu3_2").maps
    maxima = maps.amax((2, 3))
    top = visualization.top_activations(classifier, path="relu3_2", maps=(2, 5), count=4)
    assert list(top) == [2, 5]
    for number, activations in top.items():
        indices = sorted(range(len(split)), key=lambda i: -float(maxima[i, number]))[:4]
        assert [activation.image for activation in activations] == indices
        for activation in activations:
            assert activation.value == pytest.approx(float(maxima[activation.image, number]), rel=1e-5)
            at_unit = float(maps[activation.image, number][activation.unit])
            assert activation.value == pytest.approx(at_unit, rel=1e-5)
        assert all(a.value >= b.value for a, b in itertools.pairwise(activations))


def test_a_patch_is_the_receptive_field_beside_its_projection(classifier: Classifier) -> None:
    split = open_dataset("digits").splits["val"]
    (activations,) = visualization.top_activations(classifier, path="relu2_1", maps=(1,), count=5).values()
    for activation in activations:
        # 3x3, pooled, 3x3: a field of 8 pixels
        assert activation.patch.shape == activation.reconstruction.shape == (1, 8, 8)
        images, _ = classifier.metadata.preprocessing.load_batch(split.images, np.array([activation.image]))
        # 2 pixels a unit, from 3 before the first
        row, column = (min(max(2 * unit - 3, 0), 24) for unit in activation.unit)
        assert torch.equal(activation.patch, images[0, :, row : row + 8, column : column + 8])
        projection = visualization.deconv_reconstruct(
            classifier.model, classifier.normalizer(images), "relu2_1", 1, torch.tensor([activation.unit])
        )
        in_field = projection[0, :, row : row + 8, column : column + 8]
        torch.testing.assert_close(activation.reconstruction, in_field)
        torch.testing.assert_close(activation.reconstruction.abs().sum(), projection.abs().sum())


def test_six_maps_with_an_activation_above_zero_are_chosen(classifier: Classifier) -> None:
    top = visualization.top_activations(classifier, path="relu4_2", count=1)
    assert len(top) == 6
    assert all(activations[0].value > 0 for activations in top.values())


def test_maps_splits_and_images_that_do_not_fit_are_refused(classifier: Classifier) -> None:
    with pytest.raises(UsageError, match="relu2_1 has maps 0 to 5: there is no map 6"):
        visualization.top_activations(classifier, path="relu2_1", maps=(6,))
    with pytest.raises(UsageError, match="unknown split 'tests': the nearest is 'test'"):
        visualization.top_activations(classifier, split="tests")
    preprocessing = fixed_size_preprocessing(2, (8, 8), (32, 32))
    classifier.metadata = classifier.metadata.replace(preprocessing=preprocessing)
    with pytest.raises(UsageError, match="1 channels, the classifier takes 2"):
        visualization.top_activations(classifier)


def test_a_layer_without_an_activation_above_zero_is_an_error(classifier: Classifier) -> None:
    with torch.no_grad():
        for parameter in classifier.model.parameters():
            parameter.zero_()
    with pytest.raises(UserError, match="no image of the data excites any map of relu3_2"):
        visualization.top_activations(classifier)
