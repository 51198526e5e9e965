import bz2
import gzip
import lzma
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing.input_rows import Lines
from megatron_octo.data.preprocessing.lines import read_packed, read_range
from megatron_octo.data.preprocessing.packed import Packing, find_packing

zstandard = pytest.importorskip("zstandard")
PACK: dict[Packing, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": lambda data: bz2.compress(data[:5]) + bz2.compress(data[5:]),
    "xz": lambda data: lzma.compress(data[:5]) + bytes(8) + lzma.compress(data[5:]) + bytes(4),
    "zstd": lambda data: zstandard.compress(data[:5]) + zstandard.compress(data[5:]),  # two frames
}
contents = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=20)


def numbered(pieces: Iterable[Lines]) -> dict[int, tuple[bytes, str]]:
    found: dict[int, tuple[bytes, str]] = {}
    for piece in pieces:
        for place, line in piece:
            assert isinstance(line, bytes) and place not in found
            found[place] = line, piece.where(place).rpartition(":")[2]
    return found


def expected(lines: list[bytes]) -> dict[int, tuple[bytes, str]]:
    places = [sum(len(line) + 1 for line in lines[:number]) for number in range(len(lines))]
    return {
        place: (line, str(number))
        for number, (place, line) in enumerate(zip(places, lines), 1)
        if line and not line.isspace()
    }


@settings(max_examples=60, deadline=None)
@given(contents, st.integers(1, 30), st.integers(1, 40))
def test_ranges_share_no_line_and_leave_none_out(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], block: int, step: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    size = path.stat().st_size
    ranges = [(start, min(start + step, size)) for start in range(0, size, step)]
    pieces = [piece for start, end in ranges for piece in read_range(str(path), 0, start, end, block)]
    assert numbered(pieces) == expected(lines)


@settings(max_examples=40, deadline=None)
@given(contents, st.integers(1, 30), st.sampled_from(sorted(PACK)))
def test_packed_lines_have_the_same_places(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], block: int, kind: Packing
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(PACK[kind](b"\n".join(lines)))
    assert find_packing(path.read_bytes()) == kind
    assert numbered(piece for piece, _ in read_packed(str(path), 0, kind, block)) == expected(lines)


@pytest.mark.parametrize("kind", sorted(PACK))
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:9] + b"x" * 12 + data[21:]])
def test_damaged_files(tmp_path: Path, damage: Callable[[bytes], bytes], kind: Packing) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(damage(PACK[kind](bytes(range(256)).replace(b"\n", b"") * 400 + b"\n")))
    with pytest.raises(OctoError, match=f"damaged {kind} file") as caught:
        list(read_packed(str(path), 0, kind))
    assert str(path) in str(caught.value.where)
