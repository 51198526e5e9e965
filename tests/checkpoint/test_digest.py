"""Digests by pieces: one number, however the bytes come and whoever counts them."""

from pathlib import Path

import pytest
import xxhash

from megatron_octo.checkpoint import digest
from megatron_octo.checkpoint.digest import PieceDigest, differing, digests
from megatron_octo.common.files import digest_bytes

DATA = bytes(range(256)) * 5


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "PIECE", 100)


def defined(data: bytes) -> str:
    pieces = [data[start : start + 100] for start in range(0, len(data), 100)]
    return "xxh3-128-64m:" + xxhash.xxh3_128(b"".join(xxhash.xxh3_128(p).digest() for p in pieces)).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 1280])
def test_it_is_what_the_definition_says(tmp_path: Path, size: int) -> None:
    data, path = DATA[:size], tmp_path / "file"
    path.write_bytes(data)
    assert digests([path]) == {path: defined(data)}
    for portion in (1, 7, 100, 1000):
        state = PieceDigest()
        for start in range(0, size, portion):
            state.update(data[start : start + portion])
        assert state.finish() == defined(data)


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(DATA)
    for place in range(0, len(DATA), 37):
        bad.write_bytes(DATA[:place] + bytes([DATA[place] ^ 4]) + DATA[place + 1 :])
        assert differing({good: defined(DATA), bad: defined(DATA)}) == [bad]
    # Pieces that change places change the whole.
    bad.write_bytes(DATA[100:200] + DATA[:100] + DATA[200:])
    assert differing({bad: defined(DATA)}) == [bad]


def test_digests_of_whole_files_serve_too(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    assert differing({path: digest_bytes(DATA)}) == []
    assert differing({path: digest_bytes(DATA[1:])}) == [path]
    assert differing({path: "sha256:00"}) == [path]
