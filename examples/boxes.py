"""R-CNN on the composites of examples/photos.py: proposals, warped regions, features of a trained classifier,
linear classifiers, box regression, and average precision with and without it.

python examples/photos.py photos
convatlas train resnet20_cifar --data folder:photos/classes --set model.arguments.image_size=64 \
    --epochs 8 --batch 128 --out runs/photos
python examples/boxes.py photos/masks --weights runs/photos

The images are composites. They are good for trying the tools, and support no claim about photographs:
docs/boxes.md.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from box_pictures import draw_detections
from numpy.typing import NDArray

import convatlas as ca
from convatlas.boxes import Detections, RegionFeatures, Regions, TrainingImage, Truths
from convatlas.boxes.arrays import Array
from convatlas.boxes.bootstrap import interval
from convatlas.boxes.proposals import Pixels
from convatlas.boxes.rcnn import RCNN, FitScorer
from convatlas.data.sources.box_annotations import AnnotatedImage, AnnotatedImages
from convatlas.data.sources.coco_boxes import read_coco
from convatlas.errors import UsageError, UserError, printable
from convatlas.runtime.progress import track
from convatlas.storage.atomic import atomic_write
from convatlas.storage.records import to_json

MIN_OVERLAP = 0.3  # IoU from which on a training image's proposals are all taken
MIN_SIDE = 32  # pixels; smaller proposals are left out
PANELS = 12  # images in the picture


@dataclass
class Extraction:
    """Proposals and features of images, with the seconds that each stage takes."""

    features: RegionFeatures
    source: Literal["selective", "sliding"]
    max_proposals: int
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("propose", "warp", "network"), 0.0)
    )
    images: int = 0
    regions: int = 0

    def pixels(self, image: AnnotatedImage) -> Pixels:
        return image.decode(self.features.classifier.metadata.preprocessing.channels)

    def propose(self, pixels: Pixels) -> Array:
        if self.source == "sliding":
            return ca.boxes.sliding_boxes(pixels.shape[:2], scales=(0.4, 0.6, 0.85), step=0.34)
        boxes = ca.boxes.selective_search(pixels)
        is_large: NDArray[np.bool_] = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= MIN_SIDE
        return boxes[is_large][: self.max_proposals]

    def __call__(self, image: AnnotatedImage, background: int | None = None) -> Regions:
        """The proposals of an image. For training, the boxes of its objects, the proposals that overlap them,
        and `background` others."""
        pixels = self.pixels(image)
        start = time.perf_counter()
        boxes = self.propose(pixels)
        if background is not None:
            overlaps = ca.boxes.iou(boxes, image.boxes).max(axis=1, initial=0)
            others = boxes[overlaps < MIN_OVERLAP]
            spread = np.linspace(0, len(others) - 1, min(background, len(others))).astype(int)
            boxes = np.vstack([image.boxes, boxes[overlaps >= MIN_OVERLAP], others[spread]])
        proposed = time.perf_counter()
        warped = self.features.warp(pixels, boxes)
        cropped = time.perf_counter()
        regions = Regions(boxes, self.features.of_warped(warped))
        times = start, proposed, cropped, time.perf_counter()
        for stage, (begin, end) in zip(self.seconds, pairwise(times), strict=True):
            self.seconds[stage] += end - begin
        self.images += 1
        self.regions += len(boxes)
        return regions

    def report(self) -> str:
        rates = [f"{stage} {self.images / seconds:.1f}" for stage, seconds in self.seconds.items()]
        total = self.images / sum(self.seconds.values())
        return (
            f"images a second, {self.regions / self.images:.0f} regions each: {', '.join(rates)}, "
            f"all {total:.1f}"
        )


def main(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    /,
    weights: Path,
    train_images: int = 400,
    test_images: int = 120,
    proposals: Literal["sliding", "selective"] = "sliding",
    max_proposals: int = 150,
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
        folder: the composites' masks, with train/boxes.json and test/boxes.json.
        weights: a run's folder or a model.safetensors, whose network gives the features.
        train_images: images to train on, evenly from the whole split.
        test_images: images to test on, likewise.
        proposals: a dense set of sliding windows, or selective search, for which OpenCV is needed.
        max_proposals: of selective search, in an image.
        background: regions of each training image that overlap its objects by an IoU below 0.3.
        scorer: softmax regression, or a support vector machine for each class with hard negatives.
        context: pixels around a region in the warped image.
        grid: the side to which feature maps are averaged.
        seed: of the background that softmax regression draws, of the shuffled features, and of the bootstrap.
        picture: the file of the picture of some detections, PNG.
        json: a file for the numbers of the table, with all intervals.
    """
    if min(train_images, test_images, max_proposals) < 1:
        raise UsageError("--train-images, --test-images and --max-proposals should be 1 or more")
    classifier = ca.load(weights)
    sets = {split: read_coco(folder / split / "boxes.json") for split in ("train", "test")}
    classes = sets["train"].classes
    if sets["test"].classes != classes:
        raise UserError("the classes of test/boxes.json are not those of train/boxes.json")
    train = select(sets["train"], train_images)
    test = select(sets["test"], test_images)
    extract = Extraction(RegionFeatures(classifier, context=context, grid=grid), proposals, max_proposals)
    print(f"{len(train)} training and {len(test)} test images of {len(classes)} classes")
    print(f"features: {extract.features.path} of {classifier!r}, {extract.features.dimension} dimensions")

    training = [
        TrainingImage(extract(image, background), truths_of(image))
        for image in track(train, len(train), "features of training images")
    ]
    regions = [extract(image) for image in track(test, len(test), "features of test images")]
    there = [truths_of(image) for image in test]
    print(extract.report())
    print(recall_line(regions, there))

    scorers: dict[str, FitScorer] = {
        "softmax": partial(ca.boxes.fit_softmax_scorer, seed=seed),
        "svm": ca.boxes.fit_svm_scorer,
    }
    fit = scorers[scorer]

    def train_detector(images: Sequence[TrainingImage]) -> RCNN:
        return ca.boxes.train_rcnn(images, len(classes), fit)

    start = time.perf_counter()
    detector = train_detector(training)
    pairs = ", ".join(f"{classes[label]} {n}" for label, n in detector.regressor.pairs.items())
    print(f"trained in {time.perf_counter() - start:.0f} s; pairs for box regression: {pairs}")
    found = detect_all(detector, regions, test, regression=True)
    results = {
        "without regression": detect_all(detector, regions, test, regression=False),
        "with regression": found,
        "with regression, twice": [
            detector.refine(
                item,
                partial(extract.features, extract.pixels(image)),
                (image.height, image.width),
            )
            for item, image in zip(found, test, strict=True)
        ],
    }
    rng = np.random.default_rng(seed)
    control = train_detector([TrainingImage(shuffle(item.regions, rng), item.truths) for item in training])
    shuffled = [shuffle(item, rng) for item in regions]
    results["shuffled features"] = detect_all(control, shuffled, test, regression=True)
    scores = {name: score(found, there, len(classes), seed) for name, found in results.items()}
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
    png = draw_detections([test[row] for row in shown], [found[row] for row in shown], classes)
    atomic_write(picture, png)
    print(f"detections in {len(shown)} test images: {printable(picture)}")
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
        rows = [{"name": name, **row.document()} for name, row in scores.items()]
        atomic_write(json, to_json(settings | {"rows": rows, "differences": differences}, indent=1))
        print(f"wrote {printable(json)}")


def select(images: AnnotatedImages, count: int) -> list[AnnotatedImage]:
    """`count` images, evenly from the whole set."""
    rows = np.linspace(0, len(images.images) - 1, min(count, len(images.images))).round().astype(int)
    return [images.images[row] for row in rows]


def truths_of(image: AnnotatedImage) -> Truths:
    return Truths(image.boxes, image.labels, image.ignored)


def shuffle(regions: Regions, rng: np.random.Generator) -> Regions:
    """The regions of an image with each other's features."""
    return Regions(regions.boxes, rng.permutation(regions.features))


def detect_all(
    detector: RCNN, regions: Sequence[Regions], images: Sequence[AnnotatedImage], regression: bool
) -> list[Detections]:
    return [
        detector.detect(item, (image.height, image.width), regression)
        for item, image in zip(regions, images, strict=True)
    ]


def recall_line(regions: Sequence[Regions], there: Sequence[Truths]) -> str:
    """The share of the objects that a proposal overlaps."""
    best = np.concatenate(
        [
            ca.boxes.iou(truth.boxes, item.boxes).max(axis=1, initial=0)
            for item, truth in zip(regions, there, strict=True)
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


def score(found: Sequence[Detections], there: Sequence[Truths], num_classes: int, seed: int) -> Scores:
    outcomes = ca.boxes.match_detections(found, there, num_classes)
    overlaps = ca.boxes.object_overlaps(found, there)
    return Scores(
        outcomes.mean(),
        outcomes.bootstrap(seed=seed),
        ca.boxes.average_precision(found, there, num_classes, "voc07"),
        ca.boxes.average_precision(found, there, num_classes, "coco"),
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


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        print(f"boxes: {printable(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
