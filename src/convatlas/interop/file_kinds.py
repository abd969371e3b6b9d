"""Files that people take for weights of PyTorch: what they are, read off their first and last bytes."""

import re
import zipfile
from pathlib import Path
from typing import BinaryIO

HEAD = 512  # bytes
TAIL = 8
_EXPORT = "convert them where that library is installed: save the tensors by name as safetensors"
_UNPACK = "unpack it, and give the weight file inside"
_AGAIN = "download or copy it again"

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", f"is an HDF5 file, as Keras and TensorFlow save weights (.h5): {_EXPORT}"),
    (b"\x93NUMPY", "is a NumPy array: expected tensors by name, as safetensors or torch.save write them"),
    (b"GGUF", f"is a GGUF file, as llama.cpp reads: {_EXPORT}"),
    (b"MATLAB", f"is a MATLAB file, as MatConvNet saves weights: {_EXPORT}"),
    (b"\x1f\x8b", f"is compressed with gzip: {_UNPACK}"),
    (b"BZh", f"is compressed with bzip2: {_UNPACK}"),
    (b"\xfd7zXZ", f"is compressed with xz: {_UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"is compressed with zstd: {_UNPACK}"),
    (b"7z\xbc\xaf", f"is a 7z archive: {_UNPACK}"),
    (b"Rar!", f"is a RAR archive: {_UNPACK}"),
    (b"\x89PNG", "is a PNG image, not weights: give the weight file"),
    (b"\xff\xd8\xff", "is a JPEG image, not weights: give the weight file"),
    (b"%PDF", "is a PDF document, not weights: give the weight file"),
)
_ONNX = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]")  # ir_version, then the next field
_TENSORFLOW_INDEX = bytes.fromhex("57fb808b247547db")  # the end of a table of tensors
_TENSORFLOW_NAME = re.compile(r".*\.(data-\d{5}-of-\d{5}|index|ckpt|meta)|(saved_model|.*graph.*)\.pbt?(xt)?")


def describe_other_kind(stream: BinaryIO, file: Path) -> str | None:
    """What a file is that is not weights of PyTorch, and what to do, as the rest of a sentence that begins
    with its name; None where it may be weights."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - TAIL))
    tail = stream.read(TAIL)
    stream.seek(0)
    head = stream.read(HEAD)
    stream.seek(0)
    if not size:
        return f"is empty: {_AGAIN}"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        length = re.search(rb"\nsize (\d{1,15})\n", head)
        whole = f" of {int(length[1]):,} bytes" if length else ""
        return f"is a Git LFS pointer, which stands for the weights{whole}: fetch them with git lfs pull"
    for beginning, description in _BEGINNINGS:
        if head.startswith(beginning):
            return description
    if tail == _TENSORFLOW_INDEX or (_TENSORFLOW_NAME.fullmatch(file.name) and not _may_be_torch(head)):
        return f"belongs to a TensorFlow checkpoint or model: {_EXPORT}"
    if _ONNX.match(head) or file.suffix == ".onnx":
        return (
            "is an ONNX model, whose tensors have lost the network's names: give the weights that it was "
            "exported from"
        )
    if head[257:262] == b"ustar":
        return f"is a tar archive: {_UNPACK}"
    if head.startswith(b"PK\x03\x04"):
        return _describe_zip(stream)
    return _describe_text(head)


def _may_be_torch(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", b"\x80\x02")) or head[8:9] == b"{"


def _describe_text(head: bytes) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return (
            f"is an HTML page, as a login, an error or a preview page gives: {_AGAIN}, by the file's own link"
        )
    if text.startswith(b"<"):
        return f"is an XML document, as a refused download gives: {_AGAIN}, by the file's own link"
    if text.startswith((b"{", b"[")):
        return "is JSON text: give the weights themselves, or the folder that holds both"
    printable_text = re.fullmatch(rb"[\t\r\n\x20-\x7e]+", head)
    return f"is a text file, not weights: {_AGAIN}, by the file's own link" if printable_text else None


def _describe_zip(stream: BinaryIO) -> str | None:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return f"is truncated or damaged: it is a zip archive without the directory at its end; {_AGAIN}"
    finally:
        stream.seek(0)
    if any("/code/" in f"/{name}" for name in names) and any(
        name.endswith("constants.pkl") for name in names
    ):
        return (
            "is a TorchScript archive, which holds code: save its weights alone, with "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    if any(
        name.endswith(("archive_format", "models/model.json", "serialized_exported_program.json"))
        for name in names
    ):
        return (
            "is a program of torch.export: save its weights alone, with "
            "torch.save(dict(torch.export.load(FILE).state_dict), NEW)"
        )
    if any(name.endswith(".weights.h5") for name in names):
        return f"is a Keras model (.keras): {_EXPORT}"
    if names and all(name.endswith(".npy") for name in names):
        return (
            "holds NumPy arrays (.npz): save them by name with safetensors.numpy.save_file(dict(arrays), NEW)"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        return f"is a zip archive of other files ({', '.join(names[:3]) or 'none'}): {_UNPACK}"
    return None
