from typing import Literal

import pytest

from convatlas.errors import UsageError
from convatlas.storage.records import Record, diff, from_json, override, record_sha256, to_json


class Inner(Record, frozen=True):
    lr: float
    names: tuple[str, ...] = ()


class Outer(Record, frozen=True, kw_only=True):
    inner: Inner
    count: int = 1


class Choice(Record, frozen=True):
    kind: Literal["a", "b"]


def test_the_hash_does_not_depend_on_how_a_number_is_written() -> None:
    assert record_sha256(Outer(inner=Inner(1))) == record_sha256(Outer(inner=Inner(1.0)))
    assert record_sha256(Outer(inner=Inner(1.0))) != record_sha256(Outer(inner=Inner(2.0)))


def test_a_record_is_read_back_from_its_json() -> None:
    record = Outer(inner=Inner(0.1, ("a", "b")), count=3)
    assert from_json(to_json(record, indent=2), Outer, "file") == record


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"inner": {"lr": "fast"}}', r"file: Expected `float`, got `str` - at `\$.inner.lr`"),
        ('{"inner": {"lr": 1}, "cuont": 2}', "file: Object contains unknown field `cuont`"),
        ('{"inner": ', "file: "),
        ("[" * 100_000, "file: "),
        ('{"inner": {"lr": 1, "names": ["\udcff"]}}', "file: 'utf-8' codec"),
    ],
)
def test_an_invalid_field_is_named_with_its_path(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_json(text.encode(errors="surrogateescape"), Outer, "file")


def test_a_field_is_set_by_its_path() -> None:
    record = Outer(inner=Inner(0.1, ("a", "b")))
    assert override(record, "inner.lr=2").inner.lr == 2.0
    assert override(record, "inner.names.1=c").inner.names == ("a", "c")
    assert override(record, "count=5").count == 5


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("inner.lrr=1", "the nearest is 'lr'"),
        ("inner.lr=fast", "Expected `float`"),
        ("count", "expected key.path=value"),
        ("count.x=1", "inside a single value"),
    ],
)
def test_a_field_that_does_not_exist_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        override(Outer(inner=Inner(0.1)), assignment)


def test_differences_are_listed_by_path() -> None:
    assert diff(Outer(inner=Inner(0.1)), Outer(inner=Inner(0.2), count=2)) == [
        "inner.lr: 0.1 -> 0.2",
        "count: 1 -> 2",
    ]


def test_an_invalid_value_of_any_length_gives_a_short_message() -> None:
    data = b'{"kind": "' + b"x" * 100_000 + b'"}'
    with pytest.raises(UsageError, match=r"^the file: .*\$\.kind") as error:
        from_json(data, Choice, "the file")
    assert len(str(error.value)) < 500
