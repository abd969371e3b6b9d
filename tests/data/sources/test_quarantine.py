"""The list of broken files: a line that was damaged is named, and gives no image back to the trainings."""

import json
from pathlib import Path

import pytest

from convatlas.data.sources.quarantine import NAME, Quarantine, QuarantinedFile
from convatlas.errors import UserError

ENTRY = QuarantinedFile(file="cat/1.jpg", reason="cut short", content="00112233445566778899aabbccddeeff")


def test_a_flipped_bit_anywhere_in_a_line_is_named(tmp_path: Path) -> None:
    Quarantine(tmp_path).add([ENTRY])
    (before,) = Quarantine(tmp_path).entries()
    assert before.replace(hash="") == ENTRY
    file = tmp_path / NAME
    data = file.read_bytes()
    for bit in range(0, 8 * (len(data) - 1), 7):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{NAME} is (damaged|not a list of broken files)"):
            Quarantine(tmp_path).entries()


def test_a_line_without_a_hash_is_read(tmp_path: Path) -> None:
    line = {"file": ENTRY.file, "reason": ENTRY.reason, "content": ENTRY.content}
    (tmp_path / NAME).write_text(json.dumps(line) + "\n")
    assert Quarantine(tmp_path).entries() == [ENTRY]


def test_a_link_in_place_of_the_list_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / NAME).symlink_to(victim)
    with pytest.raises(OSError, match="is a link, and is not written through"):
        Quarantine(tmp_path / "photos").add([ENTRY])
    assert victim.read_bytes() == b""
