import hashlib
import os
import random
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convatlas.errors import UserError
from convatlas.storage import checked_safetensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.tensor(7), "half": torch.ones(3, dtype=torch.bfloat16)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    checked_safetensors.write_checked(tmp_path / "x.safetensors", TENSORS, {"format": 1, "text": 'a "sha256":"' + "0" * 64 + '" inside'})
    return tmp_path / "x.safetensors"


def test_what_was_sealed_is_read_back_bit_for_bit(path: Path) -> None:
    tensors, document = checked_safetensors.read_checked(path)
    assert checked_safetensors.hash_tensors(tensors) == checked_safetensors.hash_tensors(TENSORS)
    assert b'"format":1' in document


def test_any_safetensors_reader_opens_it(path: Path) -> None:
    assert torch.equal(safetensors.torch.load_file(path)["a"], TENSORS["a"])


def test_every_flipped_bit_is_found(path: Path) -> None:
    data = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(data)), 1000):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged|no ConvAtlas seal"):
            checked_safetensors.read_checked(path)


def test_every_cut_is_found(path: Path) -> None:
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
    [b'"deep":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b'"bad":"\xed\xa0\x80"', b'"bad\xff":1', b'"__metadata__":{"convatlas":7}'],
    ids=["nested", "surrogate", "no UTF-8", "no text"],
)
def test_a_header_that_no_reader_should_follow_is_refused_though_its_seal_is_right(path: Path, more: bytes) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()[:-1] + b"," + more + b"}"
    seal = re.search(rb'"sha256":"([0-9a-f]{64})"', header)
    assert seal is not None
    zeroed = len(header).to_bytes(8, "little") + header.replace(seal[1], b"0" * 64) + data[8 + length :]
    path.write_bytes(zeroed.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + hashlib.sha256(zeroed).hexdigest().encode()))
    with pytest.raises(UserError, match="is not a file that ConvAtlas wrote"):
        checked_safetensors.read_checked(path)


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for endless in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="not a file"):
            checked_safetensors.read_checked(endless)


def test_a_plain_safetensors_file_is_not_taken_for_ours(tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="no ConvAtlas seal"):
        checked_safetensors.read_checked(tmp_path / "plain.safetensors")


@settings(max_examples=50)
@given(hnp.arrays("float32", hnp.array_shapes(max_dims=3, max_side=4)), st.integers(0, 10**6))
def test_fingerprints_differ_exactly_when_a_bit_does(array: object, where: int) -> None:
    tensor = torch.from_numpy(array)
    other = tensor.clone()
    other.view(torch.int32).reshape(-1)[where % other.numel()] ^= 1
    assert checked_safetensors.hash_tensors({"x": tensor}) == checked_safetensors.hash_tensors({"x": tensor.clone()})
    assert checked_safetensors.hash_tensors({"x": tensor}) != checked_safetensors.hash_tensors({"x": other})
