"""R-CNN on the composites of examples/photos.py: proposals, warped regions, features of a trained classifier,
linear classifiers, box regression, and average precision with and without it.

python examples/photos.py photos
convatlas train resnet20_cifar --data folder:photos/classes --set model.arguments.image_size=64 \
    --epochs 8 --batch 128 --out runs/photos
python examples/boxes.py photos/masks --weights runs/photos --out runs/detector
convatlas eval runs/detector
convatlas predict runs/detector photos/masks/test/images

The images are composites. They are good for trying the tools, and support no claim about photographs:
docs/boxes.md.
"""

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

import convatlas as ca
from convatlas.boxes import Detections, Regions, TrainingImage, Truths
from convatlas.boxes.arrays import Array
from convatlas.boxes.bootstrap import interval
from convatlas.boxes.detections import image_truths
from convatlas.boxes.proposal_methods import Proposals
from convatlas.boxes.rcnn import FitScorer
from convatlas.data.box_pictures import WHITE, class_color, draw_boxes
from convatlas.data.sources.box_annotations import AnnotatedImage, AnnotatedImages
from convatlas.errors import UsageError, UserError, printable
from convatlas.plotting import Tile, TileRow, draw_tiles, figure_png
from convatlas.runtime.progress import track
from convatlas.storage.atomic import atomic_write
from convatlas.storage.records import to_json

PANELS, COLUMNS, PANEL_SIDE = 12, 4, 320  # images in the picture, in a row, and their longer side
SHOWN = 2  # detections in each of them


def main(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    /,
    weights: Path,
    out: Path | None = None,
    train_images: int = 400,
    test_images: int = 120,
    proposals: Literal["sliding", "selective"] = "sliding",
    background: int = 32,
    scorer: Literal["softmax", "svm"] = "softmax",
    context: int = 16,
    grid: int = 4,
    seed: int = 0,
    picture: Path = Path("boxes.png"),
    json: Path | None = None,
) -> None:
    """Train and test the detector.

    Args:
        folder: images with boxes, such as the composites' masks: train/boxes.json and test/boxes.json.
        weights: a run's folder or a model.safetensors, whose network gives the features.
        out: a folder for the detector, which eval and predict take.
        train_images: images to train on, evenly from the whole split.
        test_images: images to test on, likewise.
        proposals: a dense set of sliding windows, or selective search, for which OpenCV is needed.
        background: regions of each training image that overlap its objects by an IoU below 0.3.
        scorer: softmax regression, or a support vector machine for each class with hard negatives.
        context: pixels around a region in the warped image.
        grid: the side to which feature maps are averaged.
        seed: of the background that softmax regression draws, of the shuffled features, and of the bootstrap.
        picture: the file of the picture of some detections, PNG.
        json: a file for the numbers of the table, with all intervals.
    """
    if min(train_images, test_images) < 1:
        raise UsageError("--train-images and --test-images should be 1 or more")
    if out is not None and (out / "model.safetensors").exists():
        raise UsageError(f"{printable(out)} holds a model already: give another folder with --out")
    for file in (picture, json):
        if file is not None and not file.parent.is_dir():
            raise UsageError(
                f"{printable(file)} cannot be written: there is no folder {printable(file.parent)}"
            )
    data = f"folder:{folder}"
    dataset = ca.boxes.open_boxes(data)
    missing = {"train", "test"} - {*dataset.splits}
    if missing:
        raise UserError(f"{printable(folder)} has no {missing.pop()} images")
    classes = dataset.classes
    train = select(dataset.splits["train"], train_images)
    test = select(dataset.splits["test"], test_images)
    features = ca.boxes.RegionFeatures(ca.load(weights), context=context, grid=grid)
    methods: dict[str, Proposals] = {
        "sliding": ca.boxes.SlidingWindows(),
        "selective": ca.boxes.SelectiveSearch(),
    }
    extractor = ca.boxes.RegionExtractor(features, methods[proposals])
    print(f"{len(train)} training and {len(test)} test images of {len(classes)} classes")
    print(f"features: {features.path} of {features.classifier!r}, {features.dimension} dimensions")

    training = [
        extractor.training_image(image, background)
        for image in track(train, len(train), "features of training images")
    ]
    regions = [
        extractor(extractor.decode(image)) for image in track(test, len(test), "features of test images")
    ]
    truths = [image_truths(image) for image in test]
    print(f"images a second, {extractor.seconds}")
    print(recall_line(regions, truths))

    scorers: dict[str, FitScorer] = {
        "softmax": partial(ca.boxes.fit_softmax_scorer, seed=seed),
        "svm": ca.boxes.fit_svm_scorer,
    }
    fit = scorers[scorer]
    start = time.perf_counter()
    detector = ca.boxes.train_detector(extractor, training, classes, fit, data=data)
    pairs = ", ".join(f"{name} {count}" for name, count in detector.pairs.items())
    print(f"trained in {time.perf_counter() - start:.0f} s; pairs for box regression: {pairs}")
    moved = detect_all(detector, regions, test)
    results = {
        "without regression": detect_all(detector, regions, test, regression=False),
        "with regression": moved,
        "with regression, twice": [
            detector.rcnn.refine(
                item, partial(features, extractor.decode(image)), (image.height, image.width)
            )
            for item, image in zip(moved, test, strict=True)
        ],
    }
    rng = np.random.default_rng(seed)
    shuffled = [TrainingImage(shuffle(item.regions, rng), item.truths) for item in training]
    control = ca.boxes.train_detector(extractor, shuffled, classes, fit)
    results["shuffled features"] = detect_all(control, [shuffle(item, rng) for item in regions], test)
    scores = {name: score(detections, truths, len(classes), seed) for name, detections in results.items()}
    print_table(scores)
    differences = [
        difference(scores, "with regression", other) for other in ("without regression", "shuffled features")
    ]
    for row in differences:
        low, high = row["ap50_interval"]
        print(
            f"{row['name']} minus {row['other']}: {row['ap50']:+.1f} points of AP@0.5 "
            f"({low:+.1f} to {high:+.1f})"
        )
    shown = np.linspace(0, len(test) - 1, min(PANELS, len(test))).round().astype(int)
    panels = [draw_panel(test[row], moved[row], classes) for row in shown]
    rows = [TileRow([Tile(panel) for panel in panels[i : i + COLUMNS]]) for i in range(0, PANELS, COLUMNS)]
    atomic_write(picture, figure_png(draw_tiles([row for row in rows if row.tiles], side=PANEL_SIDE)))
    print(f"objects (white) and detections in {len(shown)} test images: {printable(picture)}")
    if json is not None:
        settings = {
            "weights": str(weights),
            "train_images": len(train),
            "test_images": len(test),
            "proposals": proposals,
            "background": background,
            "scorer": scorer,
            "context": context,
            "grid": grid,
            "seed": seed,
        }
        table = [{"name": name, **row.document()} for name, row in scores.items()]
        atomic_write(json, to_json(settings | {"rows": table, "differences": differences}, indent=1))
        print(f"wrote {printable(json)}")
    if out is not None:
        detector.save(out)
        print(f"next: convatlas eval {printable(out)}")
        print(f"      convatlas predict {printable(out)} {printable(test[0].file)}")


def select(images: AnnotatedImages, count: int) -> list[AnnotatedImage]:
    """`count` images, evenly from the whole set."""
    rows = np.linspace(0, len(images.images) - 1, min(count, len(images.images))).round().astype(int)
    return [images.images[row] for row in rows]


def shuffle(regions: Regions, rng: np.random.Generator) -> Regions:
    """The regions of an image with each other's features."""
    return Regions(regions.boxes, rng.permutation(regions.features))


def detect_all(
    detector: ca.Detector,
    regions: Sequence[Regions],
    images: Sequence[AnnotatedImage],
    regression: bool = True,
) -> list[Detections]:
    return [
        detector.rcnn.detect(item, (image.height, image.width), regression)
        for item, image in zip(regions, images, strict=True)
    ]


def recall_line(regions: Sequence[Regions], truths: Sequence[Truths]) -> str:
    """The share of the objects that a proposal overlaps."""
    best = np.concatenate(
        [
            ca.boxes.iou(truth.boxes, item.boxes).max(axis=1, initial=0)
            for item, truth in zip(regions, truths, strict=True)
        ]
    )
    shares = ", ".join(f"{100 * (best >= iou).mean():.1f} % at IoU {iou}" for iou in (0.5, 0.7))
    return f"recall of the proposals: {shares}"


class Scores(NamedTuple):
    """A detector's scores in percent."""

    ap: float  # at IoU 0.5, VOC's area below the curve
    draws: Array  # of it, on the same images for all detectors
    ap_voc07: float
    ap_coco: float
    mean_iou: float
    mean_iou_draws: Array  # on the same images, too

    def document(self) -> dict[str, Any]:
        return {
            "ap50": self.ap,
            "ap50_interval": interval(self.draws),
            "ap50_voc07": self.ap_voc07,
            "ap50_coco": self.ap_coco,
            "mean_iou": self.mean_iou,
            "mean_iou_interval": interval(self.mean_iou_draws),
        }


def score(detections: Sequence[Detections], truths: Sequence[Truths], num_classes: int, seed: int) -> Scores:
    outcomes = ca.boxes.match_detections(detections, truths, num_classes)
    overlaps = ca.boxes.object_overlaps(detections, truths)
    return Scores(
        outcomes.mean(),
        outcomes.bootstrap(seed=seed),
        ca.boxes.average_precision(detections, truths, num_classes, "voc07"),
        ca.boxes.average_precision(detections, truths, num_classes, "coco"),
        overlaps.mean(),
        overlaps.bootstrap(seed=seed),
    )


def print_table(scores: dict[str, Scores]) -> None:
    print(f"{'':24}{'AP@0.5 (95 % interval)':>25}{'VOC 2007':>10}{'COCO 0.5':>10}{'mean IoU':>10}")
    for name, row in scores.items():
        low, high = interval(row.draws)
        ap = f"{row.ap:.1f} ({low:.1f} to {high:.1f})"
        print(f"{name:24}{ap:>25}{row.ap_voc07:10.1f}{row.ap_coco:10.1f}{row.mean_iou:10.1f}")


def difference(scores: dict[str, Scores], name: str, other: str) -> dict[str, Any]:
    """The differences of two detectors, and their intervals on the same draws of images."""
    a, b = scores[name], scores[other]
    return {
        "name": name,
        "other": other,
        "ap50": a.ap - b.ap,
        "ap50_interval": interval(a.draws - b.draws),
        "mean_iou": a.mean_iou - b.mean_iou,
        "mean_iou_interval": interval(a.mean_iou_draws - b.mean_iou_draws),
    }


def draw_panel(
    image: AnnotatedImage, detections: Detections, classes: Sequence[str]
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image with its objects (white) and best detections, with class and score."""
    names = [classes[label] for label in image.labels]
    pixels = draw_boxes(image.decode(), image.boxes, names, [WHITE] * len(names), below=True)
    best = [*zip(detections.scores, detections.labels, strict=True)][:SHOWN]
    texts = [f"{classes[label]} {value:.2f}" for value, label in best]
    return draw_boxes(pixels, detections.boxes[:SHOWN], texts, [class_color(int(label)) for _, label in best])


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        print(f"boxes: {printable(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
