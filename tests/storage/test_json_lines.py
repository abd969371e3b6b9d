import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.errors import UserError
from convatlas.storage.json_lines import JsonLines, read_json_lines


def write(path: Path, steps: range) -> bytes:
    lines = JsonLines(path)
    for step in steps:
        lines.append({"step": step, "text": '"hash":"' + "0" * 16 + '"}'})
    lines.close()
    return path.read_bytes()


def test_lines_are_json_with_a_hash_at_the_end(tmp_path: Path) -> None:
    write(tmp_path / "log", range(3))
    lines = [json.loads(line) for line in read_json_lines(tmp_path / "log")]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert all(list(line)[-1] == "hash" for line in lines)
    assert len({line["hash"] for line in lines}) == 3


def test_a_log_continued_after_closing_is_the_log_written_at_once(tmp_path: Path) -> None:
    write(tmp_path / "log", range(2))
    assert write(tmp_path / "log", range(2, 5)) == write(tmp_path / "whole", range(5))


@pytest.mark.parametrize("step", range(4))
def test_a_log_truncated_and_written_again_is_the_same(tmp_path: Path, step: int) -> None:
    whole = write(tmp_path / "log", range(4))
    length = sum(len(line) + 1 for line in whole.splitlines()[:step])
    lines = JsonLines(tmp_path / "log")
    lines.truncate(length)
    lines.close()
    assert write(tmp_path / "log", range(step, 4)) == whole


def test_a_torn_last_line_is_cut_on_opening(tmp_path: Path) -> None:
    whole = write(tmp_path / "log", range(3))
    for length in range(len(whole)):
        (tmp_path / "log").write_bytes(whole[:length])
        assert (
            b"".join(line + b"\n" for line in read_json_lines(tmp_path / "log"))
            == whole[: whole.rfind(b"\n", 0, length) + 1]
        )
        JsonLines(tmp_path / "log").close()
        assert (tmp_path / "log").read_bytes() == whole[: whole.rfind(b"\n", 0, length) + 1]


def test_every_flipped_bit_of_a_whole_line_is_detected(tmp_path: Path) -> None:
    whole = write(tmp_path / "log", range(3))
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "log").write_bytes(damaged)
        if damaged.count(b"\n") < 3 and not damaged.endswith(b"\n"):
            continue  # the last line has lost its end, and counts as torn
        with pytest.raises(UserError, match="is damaged at line"):
            list(read_json_lines(tmp_path / "log"))


@pytest.mark.parametrize(
    "order", [(1, 2), (0, 2), (0, 2, 1), (0, 1, 1, 2)], ids=["first lost", "lost", "swapped", "twice"]
)
def test_lines_that_are_lost_swapped_or_repeated_are_detected(tmp_path: Path, order: tuple[int, ...]) -> None:
    lines = write(tmp_path / "log", range(3)).splitlines(keepends=True)
    (tmp_path / "log").write_bytes(b"".join(lines[i] for i in order))
    with pytest.raises(UserError, match="log is damaged at line"):
        JsonLines(tmp_path / "log")


def test_a_length_inside_a_line_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "log", range(3))
    lines = JsonLines(tmp_path / "log")
    with pytest.raises(UserError, match="no line that ends at byte 5"):
        lines.truncate(5)
    lines.close()


@given(
    st.lists(
        st.dictionaries(st.text(), st.integers(-(2**53), 2**53) | st.text() | st.none(), min_size=1),
        max_size=5,
    )
)
def test_what_is_appended_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, documents: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    lines = JsonLines(path)
    for document in documents:
        lines.append(document)
    lines.close()
    read = [json.loads(line) for line in read_json_lines(path)]
    assert [{**line, "hash": None} for line in read] == [{**document, "hash": None} for document in documents]
