"""A small set of images with masks, and a U-Net that learns it in seconds."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import convatlas as ca
from convatlas import models
from convatlas.data.transforms.elastic import ElasticTransform
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.optim.optimizers import SGD
from convatlas.recipes import RECIPES, Epochs

CLASSES = ("ground", "disc", "bar")


def draw_sample(generator: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A noisy grey image with a bright disc and a dark bar, and its mask."""
    mask = np.zeros((36, 44), np.uint8)
    y, x = np.mgrid[:36, :44]
    center_y, center_x, radius = (
        generator.integers(8, 28),
        generator.integers(8, 20),
        generator.integers(4, 8),
    )
    mask[(y - center_y) ** 2 + (x - center_x) ** 2 < radius**2] = 1
    left = generator.integers(26, 38)
    mask[4:30, left : left + 5] = 2
    levels = np.array([110, 230, 20])[mask] + generator.normal(0, 8, mask.shape)
    return levels.clip(0, 255).astype(np.uint8), mask


def make_shapes(root: Path) -> Path:
    """16 training, 4 validation and 6 test images of 36x44 pixels, whose discs and bars are instances too."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4), ("test", 6)):
        for kind in ("images", "masks", "instances"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            image, mask = draw_sample(generator)
            Image.fromarray(image).save(root / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
            Image.fromarray(mask.astype(np.uint16)).save(root / split / "instances" / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def unet_run(shapes: Path, seed: int = 0, epochs: float = 12) -> ca.Run:
    model = models.get_architecture("unet", width=0.125, image_size=(220, 236))
    recipe = RECIPES["unet_small"].replace(
        budget=Epochs(epochs),
        optimizer=SGD(lr=0.05, momentum=0.9, nesterov=True),
        crop=RandomTile(elastic=ElasticTransform(std=1.0)),
    )
    return ca.Run(model=model, data=f"folder:{shapes}", recipe=recipe, seed=seed, precision="fp32")
