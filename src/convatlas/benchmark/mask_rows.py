"""The rows of `bench inference` that label the pixels of a folder of JPEGs, and the cost of one of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from convatlas import models
from convatlas.analysis import analyze
from convatlas.benchmark.data import PHOTO_HEIGHT, PHOTO_WIDTH
from convatlas.classifier import Classifier
from convatlas.errors import UserError
from convatlas.models.unet import UNet
from convatlas.segmentation.predict import tiling_for
from convatlas.segmentation.segmenter import Segmenter


def label_file_by_file(network: models.Network, mode: str, files: list[Path]) -> Callable[[], int]:
    """As one writes it by hand: each image whole, for U-Net with mirrored borders. `mode` is Pillow's name of
    the channels."""

    def label() -> int:
        for file in files:
            pixels = np.atleast_3d(np.array(Image.open(file).convert(mode)))
            image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
            height, width = image.shape[2:]
            if isinstance(network, UNet):
                rows, columns = network.image_size_for((height, width))
                left = top = network.margin
                image = F.pad(image, (left, columns - width - left, top, rows - height - top), mode="reflect")
            network(image)[:, :, :height, :width].argmax(1).byte().numpy()
        return len(files)

    return label


def label_by_segmenter(classifier: Classifier, files: list[Path]) -> Callable[[], int]:
    segmenter = Segmenter(classifier)
    return lambda: sum(not isinstance(mask, UserError) for _, mask in segmenter.predict_iter(files))


def macs_of_file(classifier: Classifier) -> int:
    """The multiply-adds of one photograph, in the tiles that `predict` cuts it into."""
    size = PHOTO_HEIGHT, PHOTO_WIDTH
    tiling = tiling_for(classifier.metadata.preprocessing, size)
    tile = classifier.metadata.preprocessing.channels, *tiling.tile
    return tiling.num_tiles(size) * analyze(classifier.model, tile).macs
