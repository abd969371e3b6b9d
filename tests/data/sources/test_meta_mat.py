"""Struct arrays in MATLAB files. The oracle: scipy writes them."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from convatlas.data.sources import meta_mat
from convatlas.data.sources.meta_mat import read_structs

ROWS = [(1, "n01443537", "goldfish"), (2, "n02123045", "tabby, tabby cat"), (5, "n07753592", "bänana")]
FIELDS = [("number", object), ("wnid", object), ("words", object), ("children", object)]


def written(variables: dict[str, Any], compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, variables, do_compression=compressed)
    return buffer.getvalue()


def structs(number_type: str = "float64") -> np.ndarray:
    """A column of structs with texts, numbers and arrays of several sizes."""
    rows = [(np.array(n, number_type), wnid, words, np.arange(n)) for n, wnid, words in ROWS]
    return np.array(rows, FIELDS)[:, None]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("number_type", ["float64", "float32", "uint8", "int16", "int32", "uint64"])
def test_the_fields_of_structs_are_read_as_written(compressed: bool, number_type: str) -> None:
    data = written({"before": np.arange(3), "synsets": structs(number_type), "after": "text"}, compressed)
    assert read_structs(data, "synsets", ["number", "wnid", "words"]) == ROWS
    assert read_structs(data, "synsets", ["words"]) == [(words,) for _, _, words in ROWS]


def test_a_single_struct_is_a_row() -> None:
    data = written({"synsets": {"number": 7.0, "wnid": "n01443537"}})
    assert read_structs(data, "synsets", ["number", "wnid"]) == [(7.0, "n01443537")]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(128),
        written({"other": structs()}),
        written({"synsets": np.arange(3.0)}),
        written({"synsets": {"number": 7.0}}),
        written({"synsets": {"number": 7.0, "wnid": {"deep": "n01443537"}}}),
        written({"synsets": {"number": [], "wnid": "n01443537"}}),
    ],
    ids=["empty", "header alone", "another name", "numbers", "field missing", "struct", "no number"],
)
def test_other_content_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):  # with a message
        read_structs(data, "synsets", ["number", "wnid"])


WRITTEN = {compressed: written({"synsets": structs()}, compressed) for compressed in (False, True)}


@given(st.data(), st.booleans())
def test_damaged_bytes_are_a_value_error_or_rows(data: st.DataObject, compressed: bool) -> None:
    content = bytearray(WRITTEN[compressed])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        rows = read_structs(bytes(content), "synsets", ["number", "wnid"])
    except ValueError:
        return
    assert all(isinstance(value, float | str) for row in rows for value in row)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_that_is_cut_anywhere_is_a_value_error(compressed: bool) -> None:
    content = WRITTEN[compressed]
    for length in range(0, len(content), 7):
        with pytest.raises(ValueError, match=r"."):  # with a message
            read_structs(content[:length], "synsets", ["number", "wnid"])


def test_a_variable_above_the_limit_is_not_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_mat, "MAX_BYTES", 100_000)
    data = written({"synsets": {"number": np.zeros(100_000)}}, compressed=True)
    with pytest.raises(ValueError, match="cut short"):
        read_structs(data, "synsets", ["number"])
