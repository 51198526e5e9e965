"""Shards: complete or refused, and which documents are compared with the reference."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.common.splitmix import mix
from megatron_octo.data.preprocessing import encode, sources
from megatron_octo.data.preprocessing.encode import CHECKED_EVERY, FIRST_CHECKED, EncodeOptions
from megatron_octo.data.preprocessing.shards import Shard, ShardMaker, open_shard
from megatron_octo.data.preprocessing.sources import open_input, pieces


def make(folder: Path, tokenizer_file: Path, rows: list[str]) -> Shard:
    path = folder / "a.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in rows).encode()))
    (piece,) = pieces([open_input(str(path))], 1 << 30)
    return ShardMaker(EncodeOptions(str(tokenizer_file), format="text"), folder)(piece)


def test_as_many_first_documents_are_compared_as_is_said(
    tmp_path: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first 50 documents end in the middle of a block, and blocks follow."""
    pytest.importorskip("tokie")
    monkeypatch.setattr(sources, "BLOCK", 1000)
    shard = make(tmp_path, tokenizer_file, [f"def f{i}(): return {i}" for i in range(400)])
    size = len(json.dumps({"text": "def f0(): return 0"})) + 1
    assert 50 * size > 1000, "the first documents lie in several blocks"
    places, place = [], 0
    for line in gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).splitlines(keepends=True):
        places.append(place)
        place += len(line)
    drawn = mix(np.array(places[FIRST_CHECKED:], np.uint64)) % np.uint64(CHECKED_EVERY) == 0
    assert shard.checked == FIRST_CHECKED + np.count_nonzero(drawn)
    assert encode.FIRST_CHECKED == 50


def test_a_shard_is_read_back_and_a_damaged_one_refused(tmp_path: Path, tokenizer_file: Path) -> None:
    shard = make(tmp_path, tokenizer_file, ["one", "two", "three"])
    assert open_shard(shard.path) == shard and shard.documents == 3
    lengths, counts, modes, _ = shard.arrays()
    assert lengths.sum() == shard.tokens and counts.tolist() == [1, 1, 1] and modes.tolist() == [1, 1, 1]
    assert sum(map(len, shard.token_chunks())) == shard.token_bytes
    data = shard.path.read_bytes()
    for place in (0, shard.token_bytes, len(data) - 4):
        shard.path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(OctoError, match="damaged shard"):
            found = open_shard(shard.path)
            assert found is not None
            found.arrays()
            list(found.token_chunks())
    assert open_shard(tmp_path / "none.shard") is None
