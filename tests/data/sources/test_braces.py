"""Braces in patterns. The oracle: bash."""

import itertools
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.data.sources.braces import MAX_BRACES, MAX_SHARDS, expand_braces
from convatlas.errors import UserError


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{000..012}.tar", [f"{i:03}.tar" for i in range(13)]),
        ("{0..10}", [str(i) for i in range(11)]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{8..010}", ["008", "009", "010"]),
        ("{05..100}", [f"{i:03}" for i in range(5, 101)]),
        ("{7..7}", ["7"]),
        ("{00..1}", ["00", "01"]),
        ("a{train,val}b", ["atrainb", "avalb"]),
        ("x{,-b}", ["x", "x-b"]),
        ("{1..3,5}", ["1..3", "5"]),
        ("{a,b}{0..1}", ["a0", "a1", "b0", "b1"]),
        ("{a,b}}", ["a}", "b}"]),
        ("}{a,b}", ["}a", "}b"]),
        ("a{b", ["a{b"]),
        ("a{0..2", ["a{0..2"]),
        ("a{b,c", ["a{b,c"]),
        ("a}b", ["a}b"]),
        ("a}0..2{", ["a}0..2{"]),
        ("{a}", ["{a}"]),
        ("a{}b", ["a{}b"]),
        ("{0...2}", ["{0...2}"]),
        ("{..2}", ["{..2}"]),
        ("plain", ["plain"]),
        ("{x}{a,b}", ["{x}a", "{x}b"]),
        ("v{1}/t-{0..2}.tar", ["v{1}/t-0.tar", "v{1}/t-1.tar", "v{1}/t-2.tar"]),
        ("{a,{b,c}}", ["a", "b", "c"]),
        ("{{a,b},c}{d,e}", ["ad", "ae", "bd", "be", "cd", "ce"]),
        ("{train/{0..1},val/0}.tar", ["train/0.tar", "train/1.tar", "val/0.tar"]),
        ("{a{b,c}}", ["{ab}", "{ac}"]),
        ("{{a,b}", ["{a", "{b"]),
        ("a{b{c,d}", ["a{bc", "a{bd"]),
        ("{a},b}", ["a}", "b"]),
    ],
)
def test_braces_stand_for_what_bash_writes(pattern: str, expected: list[str]) -> None:
    assert expand_braces(pattern) == expected
    if shutil.which("bash"):
        command = ["bash", "-c", f"printf '%s\\n' {pattern}"]
        assert subprocess.check_output(command, text=True).splitlines() == expected


TEXTS = st.text("ab01./-_ ,}", max_size=4)
CHOICES = st.lists(st.text("ab01.-", max_size=3), min_size=2, max_size=4)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A range in braces, with or without zeros before its numbers, and what it stands for."""
    first = draw(st.integers(0, 120))
    last = first + draw(st.integers(0, 12))
    width = draw(st.just(0) | st.integers(len(str(last)), 6))
    numbers = [f"{number:0{width}}" for number in range(first, last + 1)]
    return f"{{{numbers[0]}..{numbers[-1]}}}", numbers


PIECES = (
    TEXTS.map(lambda text: (text, [text]))
    | CHOICES.map(lambda texts: ("{" + ",".join(texts) + "}", texts))
    | ranges()
)


@given(st.lists(PIECES, max_size=4))
def test_several_braces_stand_for_every_combination(pieces: list[tuple[str, list[str]]]) -> None:
    pattern = "".join(text for text, _ in pieces)
    assert expand_braces(pattern) == [
        "".join(texts) for texts in itertools.product(*(texts for _, texts in pieces))
    ]


def test_a_range_may_stand_for_as_many_shards_as_the_limit() -> None:
    assert len(expand_braces("{00000..99999}")) == 100_000
    assert len(expand_braces("{000..999}/{00..99}")) == 100_000


@pytest.mark.parametrize(
    "pattern",
    [
        "{a,b}" * 50,
        "{000..400}-{000..300}",
        "{" + ",".join(["{00000..99999}"] * 100) + "}",
        "{0..100000}",
        "{" * 10_000 + ",}" * 10_000,
    ],
)
def test_a_pattern_of_too_many_names_or_braces_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match=f"{MAX_SHARDS:,}|more than {MAX_BRACES} braces"):
        expand_braces(pattern)


@given(st.text("{},.01a", max_size=20))
def test_no_pattern_is_left_without_a_name(pattern: str) -> None:
    try:
        names = expand_braces(pattern)
    except UserError as error:
        assert "expected a range that rises" in str(error)
    else:
        assert names
        assert names == [pattern] or ("{" in pattern and "}" in pattern)
