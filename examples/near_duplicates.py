"""How often `data check` says "look alike": of changed copies of photographs, and of garments that differ.

python examples/near_duplicates.py

The photographs are scikit-image's and tiles of them, the garments Fashion-MNIST's. docs/data.md has the
output.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

from convatlas.data import open_dataset
from convatlas.data.curation.near_duplicates import MAX_DISTANCE, find_near_duplicates, signature

TILE = 200  # pixels a side
Change = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=quality)
        return Image.open(buffer)

    return change


def crop(share: float) -> Change:
    """Cut off a share of every side."""

    def change(image: Image.Image) -> Image.Image:
        x, y = round(image.width * share), round(image.height * share)
        return image.crop((x, y, image.width - x, image.height - y))

    return change


def brighten(factor: float) -> Change:
    return lambda image: image.point(lambda value: min(255, factor * value))


CHANGES: dict[str, Change] = {
    "JPEG, quality 50": jpeg(50),
    "JPEG, quality 75": jpeg(75),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "20 % brighter": brighten(1.2),
    "20 % darker": brighten(0.8),
    "1 % cut off every side": crop(0.01),
    "2 % cut off every side": crop(0.02),
}


def photographs() -> list[Image.Image]:
    """The photographs and, of each, a tile every 400 pixels."""
    images = []
    for file in sorted((Path(skimage.__file__).parent / "data").iterdir()):
        if file.suffix not in (".png", ".jpg"):
            continue
        photo = Image.open(file).convert("RGB")
        if min(photo.size) < TILE:
            continue
        images.append(photo)
        images += [
            photo.crop((left, top, left + TILE, top + TILE))
            for left in range(0, photo.width - TILE + 1, 2 * TILE)
            for top in range(0, photo.height - TILE + 1, 2 * TILE)
        ]
    return images


def count_pairs(images: list[np.ndarray]) -> int:
    signatures = np.array([signature(image) for image in images])
    return len(find_near_duplicates(signatures, [str(i).encode() for i in range(len(images))]))


def main() -> None:
    print(f"pairs within a distance of {MAX_DISTANCE}")
    photos = photographs()
    for name, change in CHANGES.items():
        copies = [(np.asarray(photo), np.asarray(change(photo).convert("RGB"))) for photo in photos]
        detected = sum(count_pairs([*pair]) for pair in copies)
        print(f"{name:<24}{detected:>5} of {len(photos)} copies")
    split = open_dataset("fashion-mnist").splits["train"]
    order = np.random.default_rng(0).permutation(len(split))
    for number in (200, 1_000, 5_000):
        garments = [split.images.image(i).decode(1, (28, 28)) for i in order[:number].tolist()]
        print(
            f"{f'{number:,} garments':<24}{count_pairs(garments):>5} of {number * (number - 1) // 2:,} pairs"
        )
    for label, name in ((1, "trousers"), (3, "dresses"), (8, "bags")):
        indices = np.flatnonzero(split.labels == label)[:300].tolist()
        garments = [split.images.image(i).decode(1, (28, 28)) for i in indices]
        print(f"{f'300 {name}':<24}{count_pairs(garments):>5} of 44,850 pairs")


if __name__ == "__main__":
    main()
