"""The content hashes of a classifier's training images, in a file beside it, for evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from convatlas.data.sources.content_hash import LENGTH
from convatlas.errors import UserError
from convatlas.storage.checked_safetensors import read_checked, write_checked
from convatlas.storage.records import Record, from_json

FORMAT = 2
FILE_NAME = "training_images.safetensors"


class _Metadata(Record, frozen=True, kw_only=True):
    format: int
    run: str
    data: str


def write_training_images(path: Path, content_hashes: Sequence[bytes], run_id: str, data: str) -> None:
    """Raises OSError when the disk refuses."""
    # NumPy's bytes have lost their last zeros
    padded = [digest.ljust(LENGTH, b"\0") for digest in content_hashes]
    hashes = np.frombuffer(b"".join(padded), np.uint8).reshape(-1, LENGTH)
    metadata = _Metadata(format=FORMAT, run=run_id, data=data)
    write_checked(path, {"content_hashes": torch.from_numpy(hashes.copy())}, metadata)


def read_training_images(path: Path, run_id: str) -> set[bytes] | None:
    """The content hashes, without zeros at their ends; None where there is no such file, or it is that of
    another run.

    Raises UserError for a damaged one.
    """
    if not path.exists():
        return None
    tensors, document = read_checked(path)
    metadata = from_json(document, _Metadata, f"{path}, its metadata")
    if metadata.run != run_id:
        return None
    hashes = tensors.get("content_hashes")
    if hashes is None or hashes.dtype != torch.uint8 or hashes.dim() != 2:
        raise UserError(f"{path} does not hold content hashes: expected the file that a training wrote")
    return {row.tobytes().rstrip(b"\0") for row in hashes.numpy()}
