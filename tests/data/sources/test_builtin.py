"""The published data sets, read from intact and damaged files in their formats."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.data import open_dataset
from convatlas.data.sources import idx
from convatlas.data.sources.split import hash_arrays, stratified_holdout
from convatlas.errors import UserError

RNG = np.random.default_rng(0)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files in Fashion-MNIST's format: 6,000 random training images and 100 test images."""
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for split_name, n in (("train", 6000), ("t10k", 100)):
        write_idx(
            folder / f"{split_name}-images-idx3-ubyte.gz",
            RNG.integers(0, 256, size=(n, 28, 28), dtype=np.uint8),
        )
        write_idx(folder / f"{split_name}-labels-idx1-ubyte.gz", (np.arange(n) % 10).astype(np.uint8))
    monkeypatch.setenv("CONVATLAS_DATA", str(tmp_path))
    return folder


def test_validation_is_held_out_of_the_training_images(fashion: Path) -> None:
    dataset = open_dataset("fashion-mnist")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 1000,
        "val": 5000,
        "test": 100,
    }
    assert (np.bincount(dataset.splits["val"].labels) == 500).all()
    assert (dataset.channels, dataset.size, len(dataset.classes)) == (1, (28, 28), 10)


def test_the_hash_of_a_data_set_changes_with_its_bytes_only(fashion: Path) -> None:
    first = open_dataset("fashion-mnist").sha256
    assert open_dataset("fashion-mnist").sha256 == first
    write_idx(fashion / "t10k-labels-idx1-ubyte.gz", (np.arange(100) % 10)[::-1].astype(np.uint8))
    assert open_dataset("fashion-mnist").sha256 != first


def test_unzipped_files_are_read_too(fashion: Path) -> None:
    zipped = fashion / "train-images-idx3-ubyte.gz"
    before = open_dataset("fashion-mnist").sha256
    (fashion / "train-images-idx3-ubyte").write_bytes(gzip.decompress(zipped.read_bytes()))
    zipped.unlink()
    assert open_dataset("fashion-mnist").sha256 == before


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[: len(data) // 2], "cannot be read"),
    "flipped": (lambda data: data[:5000] + bytes([data[5000] ^ 4]) + data[5001:], "cannot be read"),
    "not zipped": (lambda data: b"hello", "cannot be read"),
    "empty": (lambda data: b"", "starts with nothing"),
    "wrong magic": (
        lambda data: gzip.compress(b"\x00\x00\x0d\x03" + bytes(12)),
        "starts with 00 00 0d 03: expected 00 00 08 03",
    ),
    "header lies": (
        lambda data: gzip.compress(b"\x00\x00\x08\x03" + b"\x7f\xff\xff\xff" * 3),
        "damaged header",
    ),
    "too short": (lambda data: gzip.compress(gzip.decompress(data)[:-1]), "cut short or too long"),
    "too long": (lambda data: gzip.compress(gzip.decompress(data) + b"x"), "cut short or too long"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_named_with_what_was_expected(fashion: Path, kind: str) -> None:
    change, message = DAMAGE[kind]
    path = fashion / "train-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=f"{path}.*{message}"):
        open_dataset("fashion-mnist")


def test_a_file_that_the_named_folder_lacks_is_reported(fashion: Path) -> None:
    (fashion / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"lacks t10k-labels-idx1-ubyte.gz.*CONVATLAS_DATA"):
        open_dataset("fashion-mnist")


def test_labels_of_another_set_are_refused(fashion: Path) -> None:
    write_idx(fashion / "t10k-labels-idx1-ubyte.gz", np.full(100, 10, np.uint8))
    with pytest.raises(UserError, match="has a label 10: expected 0 to 9"):
        open_dataset("fashion-mnist")
    write_idx(fashion / "t10k-labels-idx1-ubyte.gz", np.zeros(99, np.uint8))
    with pytest.raises(UserError, match="100 images but 99 labels"):
        open_dataset("fashion-mnist")


def write_archive(folder: Path, contents: dict[str, bytes], is_zipped: bool) -> None:
    """Write CIFAR-10's archive as it is published, or unzipped."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    if is_zipped:
        (folder / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(buffer.getvalue(), compresslevel=1))
    else:
        (folder / "cifar-10-binary.tar").write_bytes(buffer.getvalue())


@pytest.mark.parametrize("form", ["as published", "unzipped", "unpacked"])
def test_cifar_is_read_from_its_binary_archive_or_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    images = np.zeros((60_000, 3 * 32 * 32), np.uint8)
    images[:, -4:] = np.arange(60_000, dtype="<u4").view(np.uint8).reshape(-1, 4)  # no two are equal
    images[50_003] = RNG.integers(0, 256, size=3 * 32 * 32)
    labels = (np.arange(60_000) % 10).astype(np.uint8)
    records = np.concatenate([labels[:, None], images], axis=1)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    contents = {name: records[10_000 * i : 10_000 * (i + 1)].tobytes() for i, name in enumerate(names)}
    if form == "unpacked":
        (tmp_path / "cifar-10-batches-bin").mkdir()
        for name, data in contents.items():
            (tmp_path / "cifar-10-batches-bin" / name).write_bytes(data)
    else:
        write_archive(tmp_path, contents, is_zipped=form == "as published")
    monkeypatch.setenv("CONVATLAS_DATA", str(tmp_path))
    dataset = open_dataset("cifar10")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 45_000,
        "val": 5_000,
        "test": 10_000,
    }
    pixels = dataset.splits["test"].images.image(3).decode(3, (0, 0))
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1).ravel(), images[50_003])
    assert dataset.splits["test"].labels[3] == 3


def test_an_archive_of_cifar_without_members_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cifar-10-binary.tar").write_bytes(bytes(10240))
    monkeypatch.setenv("CONVATLAS_DATA", str(tmp_path))
    with pytest.raises(
        UserError, match=r"cifar-10-binary\.tar lacks data_batch_1\.bin: expected CIFAR's binary"
    ):
        open_dataset("cifar10")


def test_digits_are_split_by_class_and_never_mirrored() -> None:
    dataset = open_dataset("digits")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 1438,
        "val": 179,
        "test": 180,
    }
    assert min(np.bincount(dataset.splits["val"].labels)) >= 17
    assert not dataset.hflip_safe


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.floats(0, 0.5), st.floats(0, 0.5))
def test_splits_are_disjoint_complete_and_stratified(labels: list[int], first: float, second: float) -> None:
    array = np.array(labels, np.int64)
    hashes = hash_arrays(RNG.integers(0, 256, size=(len(array), 8), dtype=np.uint8))
    splits = stratified_holdout(array, hashes, [first, second])
    assert sorted(np.concatenate(splits)) == list(range(len(array)))
    for label in range(5):
        count = int((array == label).sum())
        assert abs((array[splits[0]] == label).sum() - first * count) <= 1


def test_a_split_depends_on_content_and_not_on_order() -> None:
    images = RNG.integers(0, 256, size=(60, 8), dtype=np.uint8)
    labels = np.arange(60) % 3
    order = RNG.permutation(60)
    held_out, _ = stratified_holdout(labels, hash_arrays(images), [0.3])
    held_out_of_shuffled, _ = stratified_holdout(labels[order], hash_arrays(images[order]), [0.3])
    assert sorted(order[held_out_of_shuffled]) == sorted(held_out)


@given(st.binary(max_size=64))
def test_an_idx_file_of_any_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(b"\x00\x00\x08\x01" + data)
    try:
        assert idx.read_idx(path, 1).size == int.from_bytes(data[:4], "big")
    except UserError as error:
        assert str(path) in str(error)
