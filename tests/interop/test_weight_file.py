"""What weight files may hold beside tensors, what other files are told to be, and what they may cost."""

import argparse
import datetime
import os
import pathlib
import pickle
import tracemalloc
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from convatlas.errors import UserError
from convatlas.interop import checkpoint_pickle
from convatlas.interop.weight_file import find_weights, read_weight_file, weights_sha256

WEIGHT = torch.arange(6.0).reshape(2, 3)


def save(folder: Path, content: Any, **options: Any) -> Path:
    torch.save(content, folder / "w.pth", **options)
    return folder / "w.pth"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("runs"), betas=(0.9, 0.999)),
        pathlib.PosixPath("a/b"),
        pathlib.PureWindowsPath("C:/data"),
        np.float64(76.1),
        np.int64(3),
        np.bool_(True),
        np.dtype("f4"),
        np.zeros(3),
        defaultdict(list, loss=[1.0]),
        datetime.datetime(2020, 1, 1),
        {"nested": [argparse.Namespace(a=np.float32(1))]},
        {1, 2},
        complex(1, 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_trainers_save_beside_the_weights_is_skipped(value: Any, legacy: bool, tmp_path: Path) -> None:
    content = {"model": {"w": WEIGHT}, "args": value, "epoch": 3}
    file = save(tmp_path, content, _use_new_zipfile_serialization=not legacy)
    content_read = read_weight_file(file).content
    assert content_read.keys() == {"model.w"}
    assert torch.equal(content_read["model.w"], WEIGHT)


def test_any_other_global_is_named_with_what_to_do(tmp_path: Path) -> None:
    for content, name in (
        (nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
        ({"w": WEIGHT, "f": os.getcwd}, r"posix\.getcwd"),
        ({"w": WEIGHT, "b": bytearray(3)}, r"builtins\.bytearray"),
    ):
        message = (
            rf"holds something other than tensors \({name}\), .*torch\.save\(model\.state_dict\(\), FILE\)"
        )
        with pytest.raises(UserError, match=message):
            read_weight_file(save(tmp_path, content))


def test_a_later_pickle_protocol_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"saved with a pickle protocol after 2, .*save it again"):
        read_weight_file(save(tmp_path, {"state": {"w": WEIGHT}}, pickle_protocol=4))


def make_other_file(folder: Path, kind: str) -> Path:
    """A file of that kind, as its library writes its first or last bytes."""
    file = folder / "w.pth"
    if kind == "TorchScript":
        with pytest.warns(DeprecationWarning, match="torch.jit"):
            torch.jit.save(torch.jit.script(nn.Linear(1, 1)), file)
    elif kind in ("npz", "keras", "zip", "zip without directory"):
        names = {"npz": ["a.npy"], "keras": ["config.json", "model.weights.h5"]}.get(kind, ["resnet50.pth"])
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, b"1234")
        if kind == "zip without directory":
            file.write_bytes(file.read_bytes()[:30])
    elif kind == "TensorFlow data":
        file = folder / "model.ckpt.data-00000-of-00001"
        file.write_bytes(b"\x00\x01" * 50)
    else:
        file.write_bytes(OTHER_BYTES[kind])
    return file


OTHER_BYTES = {
    "LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 102530333\n",
    "HTML": b"\n<!DOCTYPE html>\n<html><head></head></html>",
    "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "JSON": b'{"error": "not found"}',
    "text": b"Not Found\n",
    "HDF5": b"\x89HDF\r\n\x1a\n" + b"\0" * 100,
    "TensorFlow index": b"\0" * 100 + bytes.fromhex("57fb808b247547db"),
    "ONNX": b"\x08\x08\x12\x07pytorch\x1a\x052.0.0" + b"\0" * 50,
    "empty": b"",
    "gzip": b"\x1f\x8b\x08" + b"\0" * 30,
    "tar": b"w.pth".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 300,
    "npy": b"\x93NUMPY\x01\x00" + b" " * 100,
    "PNG": b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
}
SENTENCES = {
    "LFS": "is a Git LFS pointer, which stands for the weights of 102,530,333 bytes: .*git lfs pull",
    "HTML": "is an HTML page, .*download or copy it again",
    "XML": "is an XML document, .*download or copy it again",
    "JSON": "is JSON text: give the weights",
    "text": "is a text file, not weights",
    "HDF5": "is an HDF5 file, as Keras .*safetensors",
    "TensorFlow index": "belongs to a TensorFlow checkpoint .*safetensors",
    "TensorFlow data": "belongs to a TensorFlow checkpoint .*safetensors",
    "ONNX": "is an ONNX model, .*exported from",
    "empty": "is empty: download or copy it again",
    "gzip": "is compressed with gzip: unpack it",
    "tar": "is a tar archive: unpack it",
    "npy": "is a NumPy array: expected tensors by name",
    "npz": "holds NumPy arrays .*safetensors",
    "keras": "is a Keras model",
    "PNG": "is a PNG image, not weights",
    "zip": r"is a zip archive of other files \(resnet50\.pth\): unpack it",
    "zip without directory": "is truncated or damaged: .*download or copy it again",
    "TorchScript": r"is a TorchScript archive, which holds code: .*torch\.jit\.load",
}


@pytest.mark.parametrize("kind", SENTENCES)
def test_a_file_that_is_no_weights_is_told_what_it_is(kind: str, tmp_path: Path) -> None:
    file = make_other_file(tmp_path, kind)
    with pytest.raises(UserError, match=rf"^{file} {SENTENCES[kind]}") as error:
        read_weight_file(file)
    assert "\n" not in str(error.value)


def test_a_truncated_safetensors_file_is_told_so(tmp_path: Path) -> None:
    data = safetensors.torch.save({"w": WEIGHT})
    for length in (40, len(data) - 1):
        (tmp_path / "w.safetensors").write_bytes(data[:length])
        with pytest.raises(UserError, match=r"truncated .*download or copy it again"):
            read_weight_file(tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_pipes_and_devices_are_refused_at_once(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (read_weight_file, weights_sha256):
        with pytest.raises(UserError, match=r"cannot read .* \(it is a .*\): expected a file"):
            read(tmp_path / name)


def deflate(file: Path) -> Path:
    """The same archive with compressed members."""
    with zipfile.ZipFile(file) as stored:
        members = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file


def test_an_archive_that_unpacks_to_much_more_than_it_has_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_pickle, "SMALL_BYTES", 1 << 20)
    bomb = deflate(save(tmp_path, {"w": torch.zeros(1 << 20)}))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"would unpack to 0.0 GB: expected a file as torch.save writes it"):
        read_weight_file(bomb)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    noise = torch.randn(1 << 19, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read_weight_file(deflate(save(tmp_path, {"w": noise}))).content["w"], noise)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_tensor_larger_than_the_file_is_refused_before_memory(legacy: bool, tmp_path: Path) -> None:
    """A pickle may name any shape for a storage of a few bytes, and torch enlarges the storage."""
    file = tmp_path / "w.pth"
    torch.save({"w": torch.zeros(3, 5)}, file, _use_new_zipfile_serialization=not legacy)
    data = file.read_bytes()
    shape = b"K\x03K\x05\x86"  # BININT1 3, BININT1 5, TUPLE2
    assert data.count(shape) == 1
    huge = b"J\x00\x00\x00\x40K\x05\x86"
    if legacy:
        file.write_bytes(data.replace(shape, huge))
    else:
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, member in members.items():
                archive.writestr(name, member.replace(shape, huge))
    with pytest.raises(UserError, match="describes a tensor of 5,368,709,120 elements, more than its"):
        read_weight_file(file)


def test_a_folder_is_searched_for_its_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds nothing, but no weights: expected model.safetensors or"):
        find_weights(tmp_path)
    save(tmp_path, {"w": WEIGHT})
    assert find_weights(tmp_path) == tmp_path / "w.pth"
    assert read_weight_file(tmp_path).content.keys() == {"w"}
    (tmp_path / "other.pt").touch()
    with pytest.raises(UserError, match=r"holds several weight files \(other.pt, w.pth\): give one of them"):
        find_weights(tmp_path)
    torch.save({"w": WEIGHT}, tmp_path / "pytorch_model.bin")
    assert find_weights(tmp_path) == tmp_path / "pytorch_model.bin"


def test_a_run_without_its_weights_yet_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"is a run that has not ended, .*convatlas train --resume"):
        find_weights(tmp_path)


def test_a_pickle_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"w": [1.0, 2.0]}, protocol=2))
    with pytest.raises(UserError, match="is damaged or no weight file"):
        read_weight_file(tmp_path / "w.pkl")


def test_the_main_part_has_the_names_of_the_network(tmp_path: Path) -> None:
    state: dict[str, Tensor] = {"conv1.weight": WEIGHT, "layer1.0.conv1.weight": WEIGHT + 1}
    content = {
        "state_dict": {f"module.backbone.{name}": tensor for name, tensor in state.items()}
        | {"fc.bias": WEIGHT},
        "optimizer": {"state": {0: {"momentum_buffer": WEIGHT}}},
        "best_acc1": torch.tensor(76.1),
    }
    tensors = read_weight_file(save(tmp_path, content)).tensors
    assert tensors.keys() == {*state, "fc.bias"}
