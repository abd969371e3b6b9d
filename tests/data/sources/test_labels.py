"""Labels as text: the names that a class may have, the order of classes, and the number of every label."""

import unicodedata

import numpy as np
import pytest
from helpers.messages import is_harmless_line
from hypothesis import given
from hypothesis import strategies as st

from convatlas.data.sources.labels import are_numbers, encode_labels, sort_classes, validate_class_name
from convatlas.errors import UserError

NUMBERS = st.integers(-(10**17), 10**17).map(str)
NAMES = st.text(st.characters(codec="utf-8"), max_size=5)


@given(st.lists(st.one_of(NAMES, NUMBERS)) | st.lists(NUMBERS))
def test_every_label_gets_the_index_of_its_own_class(labels: list[str]) -> None:
    classes, codes = encode_labels(label for label in labels)  # an iterator, as sources pass it
    assert sorted(classes) == sorted(set(labels))
    assert [classes[code] for code in codes] == labels
    assert codes.dtype == np.int64


@given(st.lists(st.integers(-(10**17), 10**17), unique=True))
def test_classes_that_are_whole_numbers_are_in_numeric_order(numbers: list[int]) -> None:
    assert sort_classes(map(str, numbers)) == tuple(map(str, sorted(numbers)))


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["dog", "cat", "Ape"], ("Ape", "cat", "dog")),
        (["10", "9", "cat"], ("10", "9", "cat")),  # one name makes all of them text
        (["7", "07", "1"], ("1", "07", "7")),  # equal numbers stay two classes, in the order of their text
        (["10", "-2", "9"], ("-2", "9", "10")),
        ([], ()),
    ],
)
def test_other_classes_are_in_order_of_their_text(classes: list[str], expected: tuple[str, ...]) -> None:
    assert sort_classes(classes) == expected
    assert sort_classes(reversed(classes)) == expected


@pytest.mark.parametrize("name", ["0", "-1", "0012", "9" * 18])
def test_whole_numbers_are_recognised(name: str) -> None:
    assert are_numbers(["5", name])


@pytest.mark.parametrize(
    "name", ["", "cat", "+1", "1.0", "1e3", " 1", "1\n", "1_000", "٣", "²", "--1", "9" * 19]
)
def test_what_only_looks_like_a_number_is_a_name(name: str) -> None:
    assert not are_numbers(["5", name])


@pytest.mark.parametrize("label", ["cat", "tabby cat", "7", "x" * 1000, "größe", "猫", "a.b/c"])
@pytest.mark.parametrize("around", ["{}", "{}\n", " {}\r\n", "\t{}  ", "\u2003{}\u3000"])
def test_the_space_around_a_label_is_removed(label: str, around: str) -> None:
    assert validate_class_name(around.format(label), "a.cls") == label


@pytest.mark.parametrize(
    "label", ["", " \n", "cat\ndog", "cat\rdog", "cat\u2028dog", "cat\x0bdog", "cat\0", "x" * 1001]
)
def test_a_label_that_is_no_line_of_text_is_refused_by_place(label: str) -> None:
    with pytest.raises(
        UserError, match=r"^shard\.tar: a\.png has the label '.*': expected a class's name or number"
    ):
        validate_class_name(label, "shard.tar: a.png")


def test_a_refused_label_is_shown_in_part_and_harmless() -> None:
    with pytest.raises(UserError) as caught:
        validate_class_name("\x1b[2J" + "x" * 1000, "a.cls")
    message = str(caught.value)
    assert message.isprintable()
    assert "[2J" + "x" * 36 + "...'" in message
    assert len(message) < 150


@given(st.text(max_size=30))
def test_a_label_is_taken_without_its_space_or_refused(label: str) -> None:
    try:
        name = validate_class_name(label, "a.cls")
    except UserError as error:
        assert str(error).startswith("a.cls has the label ")
        assert is_harmless_line(str(error))
        assert len(label.strip().splitlines()) != 1 or "\0" in label
    else:
        assert name == unicodedata.normalize("NFC", label.strip())
        assert len(name.splitlines()) == 1
