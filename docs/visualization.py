"""Write docs/generated/visualization.md and its images: how much of Grad-CAM lies on the object, where the
object's mask is known (make bench-visualization).

Builds the composites of examples/photos.py and trains a small network on them, under runs/visualization. Both
are kept: a second call does not make them again.
"""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from convatlas import models, visualization
from convatlas.analysis import analyze
from convatlas.classifier import Classifier, load
from convatlas.data import open_dataset
from convatlas.data.images.decode import DecodedImage
from convatlas.models import Network
from convatlas.plotting import figure_png, image_png
from convatlas.visualization import plots
from convatlas.visualization.filters import draw_filters
from convatlas.visualization.grad_cam import resize_map

ROOT = Path(__file__).parent.parent
GENERATED = Path(__file__).parent / "generated"
PHOTOS = Path("runs/visualization/photos")
RUN = Path("runs/visualization/resnet20_cifar")
TRAIN = (
    f"convatlas train resnet20_cifar --data folder:{PHOTOS}/classes --set model.arguments.image_size=64 "
    f"--epochs 12 --batch 128 --out {RUN}"
)
LAYERS = ("conv3_x", "conv4_x")
BACKGROUND, EDGE = 0, 255  # values of masks: docs/photos.md
BATCH_SIZE = 100
NUM_RESAMPLES = 10_000
NUM_EXAMPLES = 8

Values = NDArray[np.float64]


@dataclass(frozen=True)
class TestImages:
    """The test images at the network's input size.

    `object_share` and `certain_share` are shares of each pixel, (n, h, w): how much of it is the object, and
    how much of it is not the object's ambiguous edge.
    """

    images: Tensor  # (n, 3, h, w), uint8
    labels: Tensor  # (n,)
    objects: NDArray[np.str_]  # (n,): the name of the object in each image
    object_share: Tensor
    certain_share: Tensor


@dataclass(frozen=True)
class GradCamScores:
    """Scores of each image's Grad-CAM, in percent: its mass on the image's object, its mass on the objects of
    other images, the object's area, and whether the map is largest on the object."""

    name: str
    mass: Values
    mass_elsewhere: Values
    area: Values
    peak_on_object: Values
    num_zero_maps: int  # maps that are zero everywhere; they count as uniform maps
    objects: NDArray[np.str_]

    def subset(self, name: str, mask: NDArray[np.bool_]) -> "GradCamScores":
        return GradCamScores(
            name,
            self.mass[mask],
            self.mass_elsewhere[mask],
            self.area[mask],
            self.peak_on_object[mask],
            self.num_zero_maps,
            self.objects[mask],
        )


def main() -> None:
    if not PHOTOS.exists():
        subprocess.run([sys.executable, str(ROOT / "examples" / "photos.py"), str(PHOTOS)], check=True)
    if not (RUN / "report.md").exists():
        subprocess.run([sys.executable, "-m", *TRAIN.split()], check=True)
    classifier = load(RUN)
    test = read_test_images(classifier)
    logits = torch.cat([classifier.logits(batch) for batch in torch.split(test.images, BATCH_SIZE)])
    predicted = logits.argmax(1)
    correct = (predicted == test.labels).numpy()
    trained = grad_cam_scores("for the true class", classifier.model, classifier, test, test.labels)
    assert isinstance(classifier.model, Network)
    assert classifier.model.architecture is not None
    torch.manual_seed(classifier.metadata.provenance["seed"])
    untrained = models.build(classifier.model.architecture)
    rows = [
        trained,
        trained.subset("where the prediction is correct", correct),
        trained.subset("where it is wrong", ~correct),
        grad_cam_scores("for the predicted class", classifier.model, classifier, test, predicted),
        grad_cam_scores("untrained network, for the true class", untrained, classifier, test, test.labels),
    ]
    write_png("grad_cam", draw_examples(classifier, test, predicted))
    write_png("filters", image_png(draw_filters(visualization.first_filters(classifier.model)[1])))
    for layer in LAYERS:
        write_png(
            layer, plots.draw_top_activations(visualization.top_activations(classifier, path=layer), layer)
        )
    shape = classifier.metadata.preprocessing.shape
    layer = visualization.last_conv_layer(classifier.model, shape)
    grid = analyze(classifier.model, shape).module(layer).output_shape[2:]
    GENERATED.joinpath("visualization.md").write_text(page(rows, 100 * float(correct.mean()), layer, grid))
    print(f"wrote {GENERATED / 'visualization.md'}")


def write_png(name: str, data: bytes) -> None:
    """Write an image in 256 colours, because it is stored in the repository."""
    image = Image.open(io.BytesIO(data)).convert("RGB").quantize(256)
    image.save(GENERATED / f"visualization_{name}.png", optimize=True)


def read_test_images(classifier: Classifier) -> TestImages:
    """Read the test split with its masks through the same geometry. Images whose crop shows nothing of the
    object are skipped."""
    dataset = open_dataset(f"folder:{PHOTOS}/classes")
    preprocessing = classifier.metadata.preprocessing
    assert dataset.classes == classifier.metadata.classes
    split = dataset.splits["test"]
    with open(PHOTOS / "classes" / "manifest.csv", newline="") as file:
        groups = {Path(row["file"]).stem: row["group"] for row in csv.DictReader(file)}
    images, _ = preprocessing.load_batch(split.images, np.arange(len(split)))
    stems = [Path(split.images.name(i)).stem for i in range(len(split))]
    masks = [np.asarray(Image.open(PHOTOS / "masks" / "test" / "masks" / f"{stem}.png")) for stem in stems]

    def pixel_share(mask: NDArray[np.bool_]) -> Tensor:
        image = DecodedImage((255 * mask[:, :, None]).astype(np.uint8))
        return preprocessing.transform(image)[0].double() / 255

    object_share = torch.stack([pixel_share((mask != BACKGROUND) & (mask != EDGE)) for mask in masks])
    certain_share = torch.stack([1 - pixel_share(mask == EDGE) for mask in masks])
    visible = object_share.sum((1, 2)) > 0
    objects = np.array([groups[stem] for stem in stems])
    return TestImages(
        images[visible],
        torch.from_numpy(split.labels)[visible],
        objects[visible.numpy()],
        object_share[visible],
        certain_share[visible],
    )


def grad_cam_scores(
    name: str, model: torch.nn.Module, classifier: Classifier, test: TestImages, classes: Tensor
) -> GradCamScores:
    maps = torch.cat(list(grad_cam_maps(model, classifier, test.images, classes)))
    heat = resize_map(maps, (test.images.shape[2], test.images.shape[3])).double().flatten(1)
    is_zero = heat.sum(1) == 0
    heat[is_zero] = 1
    object_share = test.object_share.flatten(1)
    certain_share = test.certain_share.flatten(1)
    mass = (heat @ object_share.T) / (heat @ certain_share.T)  # of each image's map on each image's object
    other_object = torch.from_numpy(test.objects[:, None] != test.objects[None])
    peak = heat.argmax(1, keepdim=True)
    return GradCamScores(
        name,
        100 * mass.diagonal().numpy(),
        100 * ((mass * other_object).sum(1) / other_object.sum(1)).numpy(),
        100 * (object_share.sum(1) / certain_share.sum(1)).numpy(),
        100 * (object_share.gather(1, peak) > 0.5)[:, 0].double().numpy(),
        int(is_zero.sum()),
        test.objects,
    )


def grad_cam_maps(
    model: torch.nn.Module, classifier: Classifier, images: Tensor, classes: Tensor
) -> Iterator[Tensor]:
    batches = zip(torch.split(images, BATCH_SIZE), torch.split(classes, BATCH_SIZE), strict=True)
    for image_batch, class_batch in batches:
        yield visualization.grad_cam(model, classifier.normalizer(image_batch), class_batch)


def confidence_interval(values: Values, objects: NDArray[np.str_]) -> tuple[float, float]:
    """The 95 % interval of the mean: bootstrap over objects, since images of one object are not
    independent."""
    names, object_indices = np.unique(objects, return_inverse=True)
    sums = np.bincount(object_indices, values)
    counts = np.bincount(object_indices)
    samples = np.random.default_rng(0).integers(0, len(names), (NUM_RESAMPLES, len(names)))
    low, high = np.quantile(sums[samples].sum(1) / counts[samples].sum(1), [0.025, 0.975])
    return float(low), float(high)


def draw_examples(classifier: Classifier, test: TestImages, predicted: Tensor) -> bytes:
    """Draw the first image of every few objects: the object's outline, Grad-CAM for the true class, and
    Grad-CAM for the predicted class where that is another."""
    first_images = np.unique(test.objects, return_index=True)[1]
    evenly_spaced = np.linspace(0, len(first_images) - 1, NUM_EXAMPLES).round().astype(int)
    indices = torch.from_numpy(first_images[evenly_spaced])
    names = classifier.metadata.classes
    figure = Figure(figsize=(1.35 * NUM_EXAMPLES, 4.7), layout="constrained", dpi=110)
    axes = figure.subplots(3, NUM_EXAMPLES)
    for line, label, classes in ((1, "for", test.labels), (2, "predicted:", predicted)):
        batches = grad_cam_maps(classifier.model, classifier, test.images[indices], classes[indices])
        maps = torch.cat(list(batches))
        for axis, i, heat in zip(axes[line], indices.tolist(), maps, strict=True):
            if line == 1 or classes[i] != test.labels[i]:
                axis.imshow(plots.overlay(test.images[i], heat))
                axis.set_title(f"{label} {names[classes[i]]}", fontsize=8, pad=2)
    for axis, i in zip(axes[0], indices.tolist(), strict=True):
        axis.imshow(plots.to_image(test.images[i]))
        axis.contour(test.object_share[i].numpy(), [0.5], colors="red", linewidths=0.8)
        axis.set_title(names[test.labels[i]], fontsize=8, pad=2)
    for axis in axes.flat:
        axis.axis("off")
    return figure_png(figure)


def table_row(scores: GradCamScores) -> str:
    gain = scores.mass - scores.mass_elsewhere
    low, high = confidence_interval(gain, scores.objects)
    cells = (
        scores.name,
        f"{len(scores.mass):,}, {len(np.unique(scores.objects))}",
        f"{scores.mass.mean():.1f}",
        f"{scores.mass_elsewhere.mean():.1f}",
        f"{gain.mean():+.1f} ({low:+.1f} to {high:+.1f})",
        f"{scores.area.mean():.1f}",
        f"{scores.peak_on_object.mean():.1f}",
    )
    return f"| {' | '.join(cells)} |"


def page(rows: list[GradCamScores], top1: float, layer: str, grid: list[int]) -> str:
    head = (
        "| Grad-CAM | images, objects | mass on the object % | on other images' objects % "
        "| difference, points (95 %) | object's area % | largest on the object % |"
    )
    table = "\n".join([head, "|---|---:|---:|---:|---:|---:|---:|", *map(table_row, rows)])
    environment = json.loads((RUN / "run.json").read_text())["environment"]
    machine = (
        f"Torch {environment['torch']}, {environment['threads']} threads, {environment['instruction_set']}"
    )
    images = "\n\n".join(f"![{name}](visualization_{name}.png)" for name in LAYERS)
    return f"""# What a small network looks at

Made by `make bench-visualization`; do not edit. ResNet-20 on composites of 64x64 pixels, trained by

    {TRAIN}

classifies {top1:.1f} % of the test images correctly. Objects and backgrounds of the test images are in no
training image ([photos.md](../photos.md)). {machine}.

## Does Grad-CAM lie on the object?

The object's mask goes through the image's own preprocessing; pixels of its edge are left out. The baseline
is the mass of the same maps on the masks of other images' objects, which accounts for maps that lie in the
middle of the image or are wide. The interval is of the mean difference, from {NUM_RESAMPLES:,} bootstraps
over objects, because images of one object are not independent. {rows[0].num_zero_maps} of the
{len(rows[0].mass)} maps for the true class are zero everywhere and count as uniform maps.

{table}

The maps of {layer} are {grid[0]}x{grid[1]} and are enlarged to the image's size, so the mass on a small
object spills over its border.

![Objects outlined; Grad-CAM for the true and for the predicted class](visualization_grad_cam.png)

*One image of every fourth test object, in alphabetical order, not selected by content. Top: the image and the
object's outline. Middle: Grad-CAM for the true class. Bottom: Grad-CAM for the predicted class, where that is
another.*

## Top activations

For six maps of a layer, evenly spaced among those with any activation: the nine strongest activations over
the validation images, projected by Zeiler and Fergus's deconvolution network, and the patches in their
receptive fields.

{images}

## The first filters

![Filters of conv1](visualization_filters.png)
"""


if __name__ == "__main__":
    main()
