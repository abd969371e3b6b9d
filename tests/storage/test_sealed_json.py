import json

import pytest

from convatlas.storage.sealed_json import is_sealed, sealed_json

DOCUMENT = {"a": {"sha256": "0" * 64}, "kind": "pixels", "shards": [1, 2], "zeta": 'a "sha256": "b"'}


def test_a_sealed_document_is_its_json_with_a_hash_and_any_change_shows() -> None:
    data = sealed_json(DOCUMENT)
    content = json.loads(data)
    assert content.pop("sha256") != "0" * 64
    assert content == DOCUMENT
    assert is_sealed(data)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not is_sealed(bytes(damaged))


@pytest.mark.parametrize("data", [b"", b"{}", json.dumps(DOCUMENT).encode()])
def test_a_document_without_a_hash_is_not_sealed(data: bytes) -> None:
    assert not is_sealed(data)
