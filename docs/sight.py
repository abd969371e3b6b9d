"""Write docs/generated/sight.md and its pictures: how much of Grad-CAM lies on the object, where the object's mask is known (make sight).

Builds the composites of examples/photos.py and trains a small network on them, under runs/sight; both are kept and not made again.
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
from convatlas.visualization import plots
from convatlas.visualization.filters import draw_filters
from convatlas.visualization.grad_cam import resize_map

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).parent / "generated"
PHOTOS, RUN = Path("runs/sight/photos"), Path("runs/sight/resnet20_cifar")
TRAIN = f"convatlas train resnet20_cifar --data folder:{PHOTOS}/classes --set model.arguments.image_size=64 --epochs 12 --out {RUN}"
LAYERS = ("conv3_x", "conv4_x")
BACKGROUND, EDGE = 0, 255  # of masks: docs/photos.md
RESAMPLES = 10_000
SHOWN = 8

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Test:
    """The test images as the network sees them. Inside and certain are shares of pixels: (n, h, w); what is not certain is the edge."""

    images: Tensor  # (n, 3, h, w), uint8
    labels: Tensor  # (n,)
    things: NDArray[np.str_]  # (n,): which object
    inside: Tensor
    certain: Tensor


@dataclass(frozen=True)
class Row:
    """Of each image, in percent: Grad-CAM's mass on its object, the same map's on the objects of other images, the object's area; and
    whether the map is largest on the object."""

    name: str
    mass: Values
    elsewhere: Values
    area: Values
    pointed: Values
    silent: int  # maps that are zero all over, taken as even ones
    things: NDArray[np.str_]

    def of(self, name: str, chosen: NDArray[np.bool_]) -> "Row":
        parts = (part[chosen] for part in (self.mass, self.elsewhere, self.area, self.pointed))
        return Row(name, *parts, self.silent, self.things[chosen])


def main() -> None:
    if not PHOTOS.exists():
        subprocess.run([sys.executable, str(ROOT / "examples" / "photos.py"), str(PHOTOS)], check=True)
    if not (RUN / "report.md").exists():
        subprocess.run([sys.executable, "-m", *TRAIN.split()], check=True)
    classifier = load(RUN)
    test = read(classifier)
    logits = torch.cat([classifier.logits(part) for part in test.images.split(100)])
    predicted = logits.argmax(1)
    right = (predicted == test.labels).numpy()
    trained = row("for the true class", classifier.model, classifier, test, test.labels)
    assert isinstance(classifier.model, Network)
    assert classifier.model.architecture is not None
    torch.manual_seed(classifier.metadata.provenance["seed"])
    fresh = models.build(classifier.model.architecture)
    rows = [
        trained,
        trained.of("where that is the answer", right),
        trained.of("where it is not", ~right),
        row("for the class that is answered", classifier.model, classifier, test, predicted),
        row("weights as they began, for the true class", fresh, classifier, test, test.labels),
    ]
    write("grad_cam", examples(classifier, test, predicted))
    write("filters", plots.png(draw_filters(visualization.first_filters(classifier.model)[1])))
    for layer in LAYERS:
        write(layer, plots.sheet(visualization.top_activations(classifier, path=layer), layer))
    shape = classifier.metadata.preprocessing.shape
    layer = visualization.last_conv_layer(classifier.model, shape)
    grid = analyze(classifier.model, shape).module(layer).output_shape[2:]
    HERE.joinpath("sight.md").write_text(page(rows, 100 * float(right.mean()), layer, grid))
    print(f"wrote {HERE / 'sight.md'}")


def write(name: str, picture: bytes) -> None:
    """In 256 colours: these are kept in the repository."""
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(256).save(HERE / f"sight_{name}.png", optimize=True)


def read(classifier: Classifier) -> Test:
    """The test split with its masks, through the same geometry. Images that their object has left are passed over."""
    dataset, geometry = open_dataset(f"folder:{PHOTOS}/classes"), classifier.metadata.preprocessing
    assert dataset.classes == classifier.metadata.classes
    split = dataset.splits["test"]
    with open(PHOTOS / "classes" / "manifest.csv", newline="") as file:
        groups = {Path(line["file"]).stem: line["group"] for line in csv.DictReader(file)}
    images, _ = geometry.load_batch(split.images, np.arange(len(split)))
    stems = [Path(split.images.name(i)).stem for i in range(len(split))]
    masks = [np.asarray(Image.open(PHOTOS / "masks" / "test" / "masks" / f"{stem}.png")) for stem in stems]

    def seen(where: NDArray[np.bool_]) -> Tensor:
        return geometry.transform(DecodedImage((255 * where[:, :, None]).astype(np.uint8)))[0].double() / 255

    inside = torch.stack([seen((mask != BACKGROUND) & (mask != EDGE)) for mask in masks])
    certain = torch.stack([1 - seen(mask == EDGE) for mask in masks])
    there = inside.sum((1, 2)) > 0
    things = np.array([groups[stem] for stem in stems])
    return Test(images[there], torch.from_numpy(split.labels)[there], things[there.numpy()], inside[there], certain[there])


def row(name: str, model: torch.nn.Module, classifier: Classifier, test: Test, classes: Tensor) -> Row:
    found = torch.cat(list(maps(model, classifier, test.images, classes)))
    heat = resize_map(found, (test.images.shape[2], test.images.shape[3])).double().flatten(1)
    silent = int((heat.sum(1) == 0).sum())
    heat[heat.sum(1) == 0] = 1
    inside, certain = test.inside.flatten(1), test.certain.flatten(1)
    mass = (heat @ inside.T) / (heat @ certain.T)  # of each image's map on each image's object
    others = torch.from_numpy(test.things[:, None] != test.things[None])
    peak = heat.argmax(1, keepdim=True)
    return Row(
        name,
        100 * mass.diagonal().numpy(),
        100 * ((mass * others).sum(1) / others.sum(1)).numpy(),
        100 * (inside.sum(1) / certain.sum(1)).numpy(),
        100 * (inside.gather(1, peak) > 0.5)[:, 0].double().numpy(),
        silent,
        test.things,
    )


def maps(model: torch.nn.Module, classifier: Classifier, images: Tensor, classes: Tensor) -> Iterator[Tensor]:
    for part, asked in zip(images.split(100), classes.split(100), strict=True):
        yield visualization.grad_cam(model, classifier.normalizer(part), asked)


def interval(values: Values, things: NDArray[np.str_]) -> tuple[float, float]:
    """The 95 % interval of the mean: bootstrap over objects, since images of one object are not independent."""
    names, numbers = np.unique(things, return_inverse=True)
    sums, counts = np.bincount(numbers, values), np.bincount(numbers)
    drawn_ = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    low, high = np.quantile(sums[drawn_].sum(1) / counts[drawn_].sum(1), [0.025, 0.975])
    return float(low), float(high)


def examples(classifier: Classifier, test: Test, predicted: Tensor) -> bytes:
    """The first picture of every few objects: the object's outline, Grad-CAM for the true class, for the answer where that is another."""
    firsts = np.unique(test.things, return_index=True)[1]
    chosen = torch.from_numpy(firsts[np.linspace(0, len(firsts) - 1, SHOWN).round().astype(int)])
    names = classifier.metadata.classes
    figure = Figure(figsize=(1.35 * SHOWN, 4.7), layout="constrained", dpi=110)
    axes = figure.subplots(3, SHOWN)
    for line, classes in ((1, test.labels), (2, predicted)):
        found = torch.cat(list(maps(classifier.model, classifier, test.images[chosen], classes[chosen])))
        for axis, i, one in zip(axes[line], chosen.tolist(), found, strict=True):
            if line == 1 or classes[i] != test.labels[i]:
                axis.imshow(plots.overlay(test.images[i], one))
                axis.set_title(f"{'for' if line == 1 else 'answered:'} {names[classes[i]]}", fontsize=8, pad=2)
    for axis, i in zip(axes[0], chosen.tolist(), strict=True):
        axis.imshow(plots.to_image(test.images[i]))
        axis.contour(test.inside[i].numpy(), [0.5], colors="red", linewidths=0.8)
        axis.set_title(names[test.labels[i]], fontsize=8, pad=2)
    for axis in axes.flat:
        axis.axis("off")
    return plots.figure_png(figure)


def page(rows: list[Row], top1: float, layer: str, grid: list[int]) -> str:
    head = (
        "| Grad-CAM | images, objects | mass on the object % | on other images' objects % | points more (95 %) | object's area % "
        "| largest on the object % |"
    )
    lines = [head, "|---|---:|---:|---:|---:|---:|---:|"]
    for r in rows:
        low, high = interval(r.mass - r.elsewhere, r.things)
        counts = f"{len(r.mass):,}, {len(np.unique(r.things))}"
        area, pointed = r.area.mean(), r.pointed.mean()
        gain = f"{(r.mass - r.elsewhere).mean():+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(f"| {r.name} | {counts} | {r.mass.mean():.1f} | {r.elsewhere.mean():.1f} | {gain} | {area:.1f} | {pointed:.1f} |")
    silent = f"{rows[0].silent} of the {len(rows[0].mass)} maps for the true class are zero all over and count as even ones."
    environment = json.loads((RUN / "run.json").read_text())["environment"]
    strongest = "\n\n".join(f"![{layer}](sight_{layer}.png)" for layer in LAYERS)
    return f"""# What a small network sees

Made by `make sight`; do not edit. ResNet-20 on composites of 64x64 pixels, by

    {TRAIN}

names {top1:.1f} % of the test images; objects and backgrounds of the test are in no training image ([photos.md](../photos.md)). Torch
{environment["torch"]}, {environment["threads"]} threads, {environment["instruction_set"]}.

## Does Grad-CAM lie on the object?

The object's mask goes through the image's own preprocessing; pixels of its edge are left out. Chance is what the same maps have on the
masks of images of other objects: that counts what a map would have for lying in the middle, or for being wide. The interval is of the
mean difference, from {RESAMPLES:,} bootstraps over objects: pictures of one object are not independent.
{silent}

{chr(10).join(lines)}

The maps, of {layer}, are {grid[0]}x{grid[1]} and enlarged to the image's size, so that the mass of a small object spills over its border.

![Test images with their objects' outlines; Grad-CAM for the true class, and for the answer where that is another](sight_grad_cam.png)

*One picture of every fourth test object, in alphabetical order, whatever it shows.*

## What excites the maps

Of six maps of a layer, spread evenly over those that anything excites, the nine strongest activations over the validation images: projected
down by Zeiler and Fergus's deconvolution network, and the patches that they see.

{strongest}

## The first filters

![Filters of conv1](sight_filters.png)
"""


if __name__ == "__main__":
    main()
