"""Save a few test images of Fashion-MNIST as PNG files, named by their class, to try `convatlas predict` on.

python examples/save_images.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from convatlas.data import open_dataset


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset("fashion-mnist")
    test = dataset.splits["test"]
    for label, name in enumerate(dataset.classes):
        pixels = test.images.image(int(np.flatnonzero(test.labels == label)[0])).decode(1, (0, 0))
        file = folder / f"{name.lower().replace('/', '-').replace(' ', '-')}.png"
        Image.fromarray(pixels[:, :, 0]).resize((224, 224), Image.Resampling.BICUBIC).save(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
