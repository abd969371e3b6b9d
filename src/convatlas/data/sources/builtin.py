"""The published data sets: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, and scikit-learn's digits."""

from collections.abc import Callable
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from convatlas.data.dataset import ArrayImages
from convatlas.data.sources import cifar, idx
from convatlas.data.sources.download import DownloadSpec
from convatlas.data.sources.source import RawDataset
from convatlas.data.sources.split import hash_arrays
from convatlas.errors import UserError

NUM_VALIDATION = 5_000  # images that are held out of the published training images
NUM_CIFAR_TEST = 10_000

MNIST = DownloadSpec(
    name="mnist",
    files={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
)
FASHION_MNIST = DownloadSpec(
    name="fashion-mnist",
    files={
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    package="dataset-fashion-mnist",
    installed="/usr/share/datasets/fashion-mnist",
)
CIFAR10 = DownloadSpec(
    name="cifar10",
    files={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
    url="https://www.cs.toronto.edu/~kriz/",
)
CIFAR100 = DownloadSpec(
    name="cifar100",
    files={"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
    url="https://www.cs.toronto.edu/~kriz/",
)

DIGITS = tuple("0123456789")
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images (n, channels, height, width) and labels (n,)


def _cifar100_classes() -> tuple[str, ...]:
    return tuple(files(__package__).joinpath("cifar100_classes.txt").read_text().split())


def _open_idx(spec: DownloadSpec, classes: tuple[str, ...]) -> RawDataset:
    def read(split: str) -> Arrays:
        images = idx.read_idx(spec.path(f"{split}-images-idx3-ubyte.gz"), 3)
        labels = idx.read_idx(spec.path(f"{split}-labels-idx1-ubyte.gz"), 1)
        return images[:, None], labels.astype(np.int64)

    return _from_train_and_test(spec.name, classes, read("train"), read("t10k"))


def _open_cifar(
    spec: DownloadSpec, classes: tuple[str, ...], train: tuple[str, ...], test: str, label_bytes: int
) -> RawDataset:
    path = spec.path(next(iter(spec.files)))
    images, labels = cifar.read_cifar(path, (*train, test), label_bytes)
    return _from_train_and_test(
        spec.name,
        classes,
        (images[:-NUM_CIFAR_TEST], labels[:-NUM_CIFAR_TEST]),
        (images[-NUM_CIFAR_TEST:], labels[-NUM_CIFAR_TEST:]),
    )


def _open_digits() -> RawDataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "digits comes with scikit-learn, which is not installed: pip install 'convatlas[sets]'"
        ) from None
    values, labels = load_digits(return_X_y=True)
    images = np.round(values * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    _check_labels("digits", DIGITS, images, labels)
    return _in_memory("digits", DIGITS, images, labels.astype(np.int64))


def _from_train_and_test(name: str, classes: tuple[str, ...], train: Arrays, test: Arrays) -> RawDataset:
    """A data set with two published splits; NUM_VALIDATION images of train will be held out."""
    for images, labels in (train, test):
        _check_labels(name, classes, images, labels)
    images = np.concatenate([train[0], test[0]])
    labels = np.concatenate([train[1], test[1]])
    num_train = len(train[1])
    splits = {"train": np.arange(num_train), "test": np.arange(num_train, len(labels))}
    return _in_memory(name, classes, images, labels, splits, NUM_VALIDATION / num_train)


def _check_labels(
    name: str, classes: tuple[str, ...], images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> None:
    if len(images) != len(labels):
        raise UserError(
            f"{name} holds {len(images):,} images but {len(labels):,} labels: its files do not belong "
            "together"
        )
    if labels.max() >= len(classes):
        raise UserError(
            f"{name} has a label {labels.max()}: expected 0 to {len(classes) - 1}; the file of labels is not "
            "this set's"
        )


def _in_memory(
    name: str,
    classes: tuple[str, ...],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    splits: dict[str, NDArray[np.int64]] | None = None,
    val_fraction: float = 0.1,
) -> RawDataset:
    return RawDataset(
        name=name,
        classes=classes,
        channels=images.shape[1],
        size=(images.shape[2], images.shape[3]),
        images=ArrayImages(images),
        labels=labels,
        content_hashes=hash_arrays(images),
        splits=splits or {},
        val_fraction=val_fraction,
        hflip_safe=classes != DIGITS,
        published=True,
    )


_CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))

BUILTIN: dict[str, Callable[[], RawDataset]] = {
    "fashion-mnist": lambda: _open_idx(FASHION_MNIST, FASHION_MNIST_CLASSES),
    "mnist": lambda: _open_idx(MNIST, DIGITS),
    "cifar10": lambda: _open_cifar(CIFAR10, CIFAR10_CLASSES, _CIFAR10_TRAIN, "test_batch.bin", 1),
    "cifar100": lambda: _open_cifar(CIFAR100, _cifar100_classes(), ("train.bin",), "test.bin", 2),
    "digits": _open_digits,
}
