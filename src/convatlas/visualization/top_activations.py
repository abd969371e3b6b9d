"""The strongest activations of feature maps over a data set, and the image patches that cause them. Zeiler,
Fergus 2013, arXiv:1311.2901, sec. 4 and Fig. 2.

Each map is represented by the images in which its strongest activation is highest, each image once. Every
image is shown as the patch in the activation's receptive field, and as the same pixels of the activation's
projection down to the image (`deconvolution`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convatlas.analysis import analyze
from convatlas.classifier import Classifier
from convatlas.data import open_dataset
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.loader import default_num_workers, iterate_batches
from convatlas.errors import UsageError, UserError, unknown_name, wrong_type
from convatlas.runtime.progress import track
from convatlas.visualization.deconvolution import deconv_reconstruct
from convatlas.visualization.feature_maps import field_slices, forward_with_maps, last_conv_layer

NUM_ACTIVATIONS = 9  # of each map, as in the paper's figure
NUM_MAPS = 6  # chosen where none are named


class Activation(NamedTuple):
    """One activation of a map: its value, its position and its image patch."""

    value: float
    image: int  # index in the split
    unit: tuple[int, int]  # row and column in the map
    patch: Tensor  # (c, h, w), uint8: its receptive field, shifted to lie inside the image
    reconstruction: Tensor  # (c, h, w), float32: the same pixels of its projection

    def __repr__(self) -> str:
        return f"<Activation {self.value:.4g} of image {self.image}, unit {self.unit}>"


class _MapMaxima(NamedTuple):
    """The highest of each map's maxima over images, the highest first."""

    values: Tensor  # (count, maps)
    indices: Tensor  # (count, maps): of the images in the split
    positions: Tensor  # (count, maps): row * map_width + column
    map_width: int


def top_activations(
    classifier: Classifier,
    data: str | None = None,
    path: str | None = None,
    maps: Sequence[int] = (),
    split: str = "val",
    count: int = NUM_ACTIVATIONS,
) -> Mapping[int, list[Activation]]:
    """The `count` strongest activations over a split of each of `maps`, feature maps of the layer at `path`,
    the strongest first.

    data: by default the data that the classifier was trained on. path: by default the last convolutional
    layer. maps: by default six maps, evenly spread over those with any activation above zero.

    Unreadable images are skipped. Raises UsageError for a split, path or map that does not exist and a module
    whose output is no feature maps; UserError if no image can be read or no activation of the layer is above
    zero.
    """
    if not isinstance(classifier, Classifier):
        raise wrong_type("the classifier", classifier, "a Classifier, as ca.load or from_module gives it")
    source = _open_split(classifier, data, split)
    preprocessing = source.preprocessing
    path = path or last_conv_layer(classifier.model, preprocessing.shape)
    maxima = _map_maxima(classifier, source, path, count)
    num_maps = maxima.values.shape[1]
    for map in maps:
        if not 0 <= map < num_maps:
            raise UsageError(f"{path} has maps 0 to {num_maps - 1}: there is no map {map}")
    report = analyze(classifier.model, preprocessing.shape)
    activations_by_map: dict[int, list[Activation]] = {}
    for map in maps or _choose_maps(maxima, path):
        indices = maxima.indices[:, map]
        positions = maxima.positions[:, map]
        images, _ = preprocessing.load_batch(source.split.images, indices.numpy())
        units = torch.stack([positions // maxima.map_width, positions % maxima.map_width], 1)
        inputs = classifier.normalizer(images.to(classifier.runtime.device))
        projections = deconv_reconstruct(classifier.model, inputs, path, map, units).cpu()
        activations = []
        for value, index, (row, column), image, projection in zip(
            maxima.values[:, map].tolist(), indices.tolist(), units.tolist(), images, projections, strict=True
        ):
            rows, columns = field_slices(report, path, (row, column), preprocessing.input_size)
            patch = image[:, rows, columns]
            activations.append(Activation(value, index, (row, column), patch, projection[:, rows, columns]))
        activations_by_map[map] = activations
    return activations_by_map


def _open_split(classifier: Classifier, data: str | None, split: str) -> EvalBatches:
    dataset = open_dataset(data or classifier.training_data)
    if split not in dataset.splits:
        raise unknown_name("split", split, dataset.splits)
    preprocessing = classifier.preprocessing_for(dataset)
    return EvalBatches(dataset.splits[split], preprocessing, classifier.metadata.batch)


def _choose_maps(maxima: _MapMaxima, path: str) -> list[int]:
    """Up to `NUM_MAPS` maps, evenly spread over those with an activation above zero."""
    active: list[int] = torch.nonzero(maxima.values[0] > 0)[:, 0].tolist()
    if not active:
        raise UserError(
            f"no image of the data excites any map of {path}: choose an earlier one with --module"
        )
    if len(active) <= NUM_MAPS:
        return active
    return [active[round(i * (len(active) - 1) / (NUM_MAPS - 1))] for i in range(NUM_MAPS)]


def _map_maxima(classifier: Classifier, source: EvalBatches, path: str, count: int) -> _MapMaxima:
    """Of each map the maximum in each image, and of these the `count` highest over all images."""
    top: list[Tensor] = []  # values, indices and positions, (count, maps) each
    map_width = 0
    batches = iterate_batches(source, 0, source.steps, default_num_workers(source.split))
    for _, batch in track(batches, source.steps, f"looking for what excites {path}"):
        batch_indices = batch.indices.numpy()  # without the padding of the last batch
        readable = torch.from_numpy(~np.isin(batch_indices, [sample.index for sample in batch.unreadable]))
        with torch.inference_mode():
            inputs = classifier.normalizer(batch.images.to(classifier.runtime.device))
            maps = forward_with_maps(classifier.model, inputs, path).maps
        map_width = maps.shape[3]
        values, positions = maps[: len(batch_indices)].float().cpu()[readable].flatten(2).max(2)
        batch_maxima = [values, batch.indices[readable][:, None].expand_as(positions), positions]
        merged = [torch.cat(pair) for pair in zip(top, batch_maxima, strict=True)] if top else batch_maxima
        order = torch.argsort(merged[0], dim=0, descending=True, stable=True)[:count]
        top = [tensor.gather(0, order) for tensor in merged]
    values, indices, positions = top
    if not len(values):
        raise UserError(
            f"none of the {len(source.split):,} images can be read: look at them with convatlas data check"
        )
    return _MapMaxima(values, indices, positions, map_width)
