"""Save a test image of each class of Fashion-MNIST as a PNG file, named after the class, to try `convatlas
predict` on.

python examples/save_images.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from convatlas.data import open_dataset

SIDE = 224  # pixels of the saved images


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset("fashion-mnist")
    test = dataset.splits["test"]
    for label, name in enumerate(dataset.classes):
        index = int(np.flatnonzero(test.labels == label)[0])
        pixels = test.images.image(index).decode(1, (0, 0))
        file = folder / f"{name.lower().replace('/', '-').replace(' ', '-')}.png"
        Image.fromarray(pixels[:, :, 0]).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
