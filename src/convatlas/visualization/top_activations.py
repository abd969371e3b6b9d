"""What excites a map most over a data set, and what of it does. Zeiler, Fergus 2013, arXiv:1311.2901, sec. 4 and Fig. 2.

For each map the images in which its strongest activation is strongest, each image once; of each the patch that the activation sees
(its receptive field), and the same pixels of its projection down to the image (`deconvolution`).
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
from convatlas.errors import UsageError, UserError, unknown_name
from convatlas.runtime.progress import track
from convatlas.visualization.deconvolution import deconv_reconstruct
from convatlas.visualization.feature_maps import forward_with_maps, last_conv_layer

COUNT = 9  # activations of each map, as in the paper's figure
SHOWN = 6  # maps, where none are named


class Activation(NamedTuple):
    """One activation of a map, where it is, and what it is of."""

    value: float
    image: int  # its place in the split
    unit: tuple[int, int]  # row and column in the map
    patch: Tensor  # (c, h, w), uint8: what it sees of the image, moved inside where its field reaches beyond
    reconstruction: Tensor  # (c, h, w), float32: the same pixels of its projection


def top_activations(
    classifier: Classifier,
    data: str | None = None,
    path: str | None = None,
    maps: Sequence[int] = (),
    split: str = "val",
    count: int = COUNT,
) -> Mapping[int, list[Activation]]:
    """Of each of `maps` of the layer at `path` its strongest activations over a split, the strongest first; without `maps` of six, evenly
    spread over those that anything excites. `data` defaults to what the classifier was trained on, `path` to the last convolutional
    features.

    Images that cannot be read are passed over. Raises UsageError for a split or path that does not exist, a module that gives no maps, a
    map that does not exist; UserError where no image can be read, or nothing excites the layer.
    """
    source = _source(classifier, data, split)
    path = path or last_conv_layer(classifier.model, source.preprocessing.shape)
    values, indices, places, width = _tops(classifier, source, path, count)
    for number in maps:
        if not 0 <= number < values.shape[1]:
            raise UsageError(f"{path} has maps 0 to {values.shape[1] - 1}: there is no map {number}")
    excited = torch.nonzero(values[0] > 0)[:, 0].tolist()
    if not maps and not excited:
        raise UserError(f"no image of the data excites any map of {path}: choose an earlier layer with --layer")
    chosen = (
        maps or [excited[round(i * (len(excited) - 1) / (SHOWN - 1))] for i in range(SHOWN)] if len(excited) > SHOWN else maps or excited
    )
    report = analyze(classifier.model, source.preprocessing.shape)
    found: dict[int, list[Activation]] = {}
    for number in chosen:
        images, _ = source.preprocessing.load_batch(source.split.images, indices[:, number].numpy())
        units = torch.stack([places[:, number] // width, places[:, number] % width], 1)
        projected = deconv_reconstruct(
            classifier.model, classifier.normalizer(images.to(classifier.runtime.device)), path, number, units
        ).cpu()
        found[number] = []
        for value, index, (row, column), image, projection in zip(
            values[:, number].tolist(), indices[:, number].tolist(), units.tolist(), images, projected, strict=True
        ):
            down, across = (
                _window(ends, side) for ends, side in zip(report.pixels(path, (row, column)), source.preprocessing.size, strict=True)
            )
            found[number].append(Activation(value, index, (row, column), image[:, down, across], projection[:, down, across]))
    return found


def _source(classifier: Classifier, data: str | None, split: str) -> EvalBatches:
    dataset = open_dataset(data or classifier.training_data)
    if split not in dataset.splits:
        raise unknown_name("split", split, dataset.splits)
    return EvalBatches(dataset.splits[split], classifier.preprocessing_for(dataset), classifier.metadata.batch)


def _tops(classifier: Classifier, source: EvalBatches, path: str, count: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """The strongest activation of each map in each image, the `count` largest over all images: their values, images and places in the map,
    each (count, maps), the largest first; and the maps' width."""
    best: list[Tensor] = []
    width = 0
    steps = iterate_batches(source, 0, source.steps, default_num_workers(source.split))
    for _, batch in track(steps, source.steps, f"looking for what excites {path}"):
        inside = batch.indices.numpy()
        usable = torch.from_numpy(~np.isin(inside, [u.index for u in batch.unreadable]))
        with torch.inference_mode():
            maps = forward_with_maps(classifier.model, classifier.normalizer(batch.images.to(classifier.runtime.device)), path).maps
        width = maps.shape[3]
        values, places = maps[: len(inside)].float().cpu()[usable].flatten(2).max(2)
        new = [values, batch.indices[usable][:, None].expand_as(places), places]
        parts = [torch.cat(pair) for pair in zip(best, new, strict=True)] if best else new
        order = torch.argsort(parts[0], dim=0, descending=True, stable=True)[:count]
        best = [part.gather(0, order) for part in parts]
    if not len(best[0]):
        raise UserError(f"none of the {len(source.split):,} images can be read: look at them with convatlas data check")
    values, indices, places = best
    return values, indices, places, width


def _window(ends: tuple[int, int] | None, side: int) -> slice:
    """The pixels between the ends, moved inside the image; all of it where they are more."""
    if ends is None:
        return slice(0, side)
    size = min(ends[1] - ends[0] + 1, side)
    start = min(max(ends[0], 0), side - size)
    return slice(start, start + size)
