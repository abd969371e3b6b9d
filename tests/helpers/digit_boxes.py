"""Digits on dark noise with their boxes in COCO's format, and a detector that learns to find them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import convatlas as ca
from convatlas.boxes.rcnn import FitScorer
from convatlas.classifier import Classifier

CLASSES = ("zero", "one", "two")
WIDTH, HEIGHT = 90, 72


def write_split(folder: Path, count: int, seed: int) -> None:
    """Images of a digit each, and boxes.json."""
    rng = np.random.default_rng(seed)
    digits = load_digits(n_class=len(CLASSES))
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        pixels = rng.integers(0, 40, (HEIGHT, WIDTH)).astype(np.uint8)
        row = np.flatnonzero(digits.target == number % len(CLASSES))[rng.integers(150)]
        side = int(rng.integers(34, 52))
        left, top = (int(rng.integers(0, room - side)) for room in (WIDTH, HEIGHT))
        digit = Image.fromarray((digits.images[row] * 15.9).astype(np.uint8)).resize((side, side))
        pixels[top : top + side, left : left + side] |= np.asarray(digit)
        name = f"images/{number}.png"
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        annotations.append(
            {
                "image_id": number,
                "category_id": number % len(CLASSES),
                "bbox": [left, top, side, side],
                "iscrowd": 0,
            }
        )
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(document))


def train_on(
    folder: Path, classifier: Classifier, fit_scorer: FitScorer = ca.boxes.fit_softmax_scorer
) -> ca.Detector:
    """A detector of the digits in FOLDER/train, with few windows."""
    dataset = ca.boxes.open_boxes(f"folder:{folder}")
    windows = ca.boxes.SlidingWindows(scales=(0.55, 0.7), aspects=(1.0,), step=0.3)
    extractor = ca.boxes.RegionExtractor(ca.boxes.RegionFeatures(classifier, context=4, grid=4), windows)
    images = [extractor.training_image(image) for image in dataset.splits["train"].images]
    return ca.boxes.train_detector(extractor, images, dataset.classes, fit_scorer, data=dataset.name)
