import hashlib
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convatlas.errors import UserError
from convatlas.storage import checked_safetensors

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b.c": torch.tensor(7),
    "half": torch.ones(3, dtype=torch.bfloat16),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    checked_safetensors.write_checked(
        tmp_path / "x.safetensors", TENSORS, {"format": 1, "text": 'a "sha256":"' + "0" * 64 + '"}" inside'}
    )
    return tmp_path / "x.safetensors"


def test_tensors_are_read_back_bit_for_bit(path: Path) -> None:
    tensors, document = checked_safetensors.read_checked(path)
    assert checked_safetensors.hash_tensors(tensors) == checked_safetensors.hash_tensors(TENSORS)
    assert b'"format":1' in document


def test_any_safetensors_reader_opens_it(path: Path) -> None:
    assert torch.equal(safetensors.torch.load_file(path)["a"], TENSORS["a"])


def test_every_flipped_bit_is_detected(path: Path) -> None:
    data = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(data)), 1000):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged|no checksum of ConvAtlas"):
            checked_safetensors.read_checked(path)


def test_every_truncation_is_detected(path: Path) -> None:
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError):
            checked_safetensors.read_checked(path)


def test_a_header_that_claims_to_be_huge_is_refused_before_it_is_parsed(path: Path) -> None:
    path.write_bytes((1 << 40).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(UserError, match="header"):
        checked_safetensors.read_checked(path)


@pytest.mark.parametrize(
    "more",
    [
        b'"deep":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'"bad":"\xed\xa0\x80"',
        b'"bad\xff":1',
        b'"__metadata__":{"convatlas":7}',
    ],
    ids=["nested", "surrogate", "no UTF-8", "no text"],
)
def test_a_malformed_header_is_refused_although_its_checksum_is_right(path: Path, more: bytes) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()[:-1] + b"," + more + b"}"
    checksum = re.search(rb'\\"sha256\\":\\"([0-9a-f]{64})\\"\}"', header)
    assert checksum is not None
    start = 8 + checksum.start(1)
    zeroed = bytearray(len(header).to_bytes(8, "little") + header + data[8 + length :])
    zeroed[start : start + 64] = b"0" * 64
    zeroed[start : start + 64] = hashlib.sha256(zeroed).hexdigest().encode()
    path.write_bytes(zeroed)
    with pytest.raises(UserError, match="is not a file that ConvAtlas wrote"):
        checked_safetensors.read_checked(path)


def test_devices_and_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for endless in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match=r"cannot read .*: expected a file"):
            checked_safetensors.read_checked(endless)


def test_a_plain_safetensors_file_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="no checksum of ConvAtlas"):
        checked_safetensors.read_checked(tmp_path / "plain.safetensors")


@settings(max_examples=50)
@given(hnp.arrays("float32", hnp.array_shapes(max_dims=3, max_side=4)), st.integers(0, 10**6))
def test_hashes_differ_exactly_when_a_bit_does(array: object, where: int) -> None:
    tensor = torch.from_numpy(array)
    other = tensor.clone()
    other.view(torch.int32).reshape(-1)[where % other.numel()] ^= 1
    assert checked_safetensors.hash_tensors({"x": tensor}) == checked_safetensors.hash_tensors(
        {"x": tensor.clone()}
    )
    assert checked_safetensors.hash_tensors({"x": tensor}) != checked_safetensors.hash_tensors({"x": other})


def test_the_same_content_gives_the_same_bytes_in_every_process(path: Path) -> None:
    script = """
import sys, torch
from convatlas.storage.checked_safetensors import serialize
document = {"b": 1, "a": {"d": [1.5, None], "c": "text"}}
tensors = {"x": torch.arange(6.0), "y": torch.ones(2, dtype=torch.bfloat16)}
sys.stdout.buffer.write(serialize(tensors, document))
"""
    files = {
        subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(files) == 1
    assert files.pop()


def test_a_file_of_format_1_is_refused_by_name(tmp_path: Path) -> None:
    metadata = {"convatlas": "{}", "sha256": "0" * 64}
    safetensors.torch.save_file(TENSORS, tmp_path / "old.safetensors", metadata)
    message = r"has format version 1, which ConvAtlas 0\.1 wrote: this ConvAtlas reads version 2"
    with pytest.raises(UserError, match=message):
        checked_safetensors.read_checked(tmp_path / "old.safetensors")
