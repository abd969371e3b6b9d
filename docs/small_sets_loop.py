"""A plain, well-tuned PyTorch loop for docs/small_sets.py: SGD with momentum 0.9 and a cosine, random crops
and flips.

    python docs/small_sets_loop.py NETWORK --data DATA --size PIXELS --rate R --seed N --images-seen N
                                   [--set model.arguments.KEY=VALUE ...]

prints one JSON document.
"""

import argparse
import json
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from plain_loop import top1
from torch import Tensor

from convatlas import models
from convatlas.data import Dataset, open_dataset
from convatlas.data.transforms.preprocessing import center_crop_preprocessing, fixed_size_preprocessing

BATCH = 32
LARGE_SET_BATCH = 128
LARGE_SET = 10_000  # images
MARGIN = 8 / 7  # of a photograph in evaluation
WEIGHT_DECAY = 5e-4
MIN_AREA = 0.25  # of a random crop of a photograph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--images-seen", type=int, required=True)
    parser.add_argument("--set", nargs="*", default=[])
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    dataset = open_dataset(arguments.data)
    settings = [setting.removeprefix("model.arguments.").split("=") for setting in arguments.set]
    network_arguments = {key: float(value) if "." in value else int(value) for key, value in settings}
    network_arguments |= {"num_classes": len(dataset.classes), "in_chans": dataset.channels}
    entry = models.get_entry(arguments.network)
    if "aux" in entry.default_arguments():
        network_arguments["aux"] = False
    model = models.build(models.get_architecture(entry.name, "paper", **network_arguments))
    seconds = train(model, dataset, arguments.size, arguments.rate, arguments.images_seen)
    scores = {split: top1(model, *load(dataset, split, arguments.size, False)) for split in ("val", "test")}
    print(
        json.dumps(
            {
                "val_top1": scores["val"],
                "test_top1": scores["test"],
                "seconds": round(seconds),
            }
        )
    )


def load(dataset: Dataset, split: str, size: int, training: bool) -> tuple[Tensor, Tensor]:
    """All images of a split, normalised by the mean and deviation of the training images: photographs at the
    size that random crops are drawn from, or at the network's."""
    mean, std = statistics(dataset, size)
    images = (_load(dataset, split, size, training).float() - mean) / std
    return images, torch.from_numpy(dataset.splits[split].labels)


def statistics(dataset: Dataset, size: int) -> tuple[Tensor, Tensor]:
    images = _load(dataset, "train", size, False).float()
    return images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)


def is_photos(dataset: Dataset) -> bool:
    """Whether the images have different sizes, or are larger than the networks' inputs."""
    image = dataset.splits["train"].images.image(0)
    return dataset.size is None and min(image.height, image.width) > 32


def _load(dataset: Dataset, split: str, size: int, training: bool) -> Tensor:
    samples = dataset.splits[split]
    if is_photos(dataset):
        if training:
            side = round(MARGIN * size)
            preprocessing = center_crop_preprocessing(dataset.channels, (side, round(side * 4 / 3)))
        else:
            preprocessing = center_crop_preprocessing(dataset.channels, (size, size), MARGIN)
    else:
        image = samples.images.image(0)
        preprocessing = fixed_size_preprocessing(
            dataset.channels, dataset.size or (image.height, image.width), (size, size)
        )
    return preprocessing.load_batch(samples.images, np.arange(len(samples)))[0]


def augment(images: Tensor, size: int, photos: bool, flips: bool) -> Tensor:
    views = []
    for image in images:
        if photos:
            view = random_resized_crop(image, size)
        else:
            top, left = torch.randint(9, (2,)).tolist()
            view = F.pad(image, [4] * 4)[:, top : top + size, left : left + size]
        views.append(view.flip(2) if flips and torch.rand(()) < 0.5 else view)
    return torch.stack(views)


def random_resized_crop(image: Tensor, size: int) -> Tensor:
    _, height, width = image.shape
    for _ in range(10):
        area = height * width * float(torch.empty(()).uniform_(MIN_AREA, 1))
        aspect = math.exp(float(torch.empty(()).uniform_(math.log(3 / 4), math.log(4 / 3))))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if h <= height and w <= width:
            top, left = int(torch.randint(height - h + 1, ())), int(torch.randint(width - w + 1, ()))
            crop = image[None, :, top : top + h, left : left + w]
            return F.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]
    return F.interpolate(image[None], (size, size), mode="bilinear", antialias=True)[0]


def train(model: torch.nn.Module, dataset: Dataset, size: int, rate: float, images_seen: int) -> float:
    """Train until the network has seen so many images. Returns the seconds that it took."""
    images, labels = load(dataset, "train", size, True)
    photos = is_photos(dataset)
    batch_size = min(LARGE_SET_BATCH if len(labels) >= LARGE_SET else BATCH, len(labels))
    num_steps = max(1, images_seen // batch_size)
    optimizer = torch.optim.SGD(
        model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    start = time.perf_counter()
    model.train()
    order: list[int] = []
    for _ in range(num_steps):
        if len(order) < batch_size:
            order = torch.randperm(len(labels)).tolist()
        batch, order = order[:batch_size], order[batch_size:]
        loss = F.cross_entropy(model(augment(images[batch], size, photos, dataset.hflip_safe)), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
