"""A manifest that was changed is found before training, and named; older ones still work."""

import json
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.data.dataset.manifest import FileRecord, Manifest, TokenizerRecord, read_manifest
from megatron_octo.data.planning.paths import read_group
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.row_stream import RowStream
from tests.data.dataset.test_indexed import write
from tests.data.test_row_stream import tagged


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    files = write(tmp_path / "p", tagged([[(3, 0), (4, 1)] for _ in range(20)]))
    Manifest(
        version="0",
        documents=20,
        tokens=140,
        targets=80,
        skipped={},
        notes={},
        tokenizer=TokenizerRecord(
            path="t", digest="xxh3-128:0", vocab_size=200, eod_id=5, eod_token="<e>", control={"<e>": 5}
        ),
        inputs=[],
        outputs={name: FileRecord(path=f"p.{name}", **found) for name, found in files.items()},
        options={"format": "finetune"},
        pretraining=False,
    ).write(tmp_path / "p")
    return tmp_path / "p"


def open_rows(prefix: Path) -> RowStream:
    group = read_group(f"x: 1 0:1 {prefix}")
    return RowStream(group, RowSettings(seq_length=12, seed=0, cache_dir=prefix.parent / "plans"))


def test_every_flipped_bit_is_found(prefix: Path) -> None:
    path = Path(f"{prefix}.json")
    good = path.read_bytes()
    open_rows(prefix)
    for place in range(0, len(good), 7):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        path.write_bytes(bad)
        if bad.split() == good.split():  # one kind of white space for another
            continue
        with pytest.raises(OctoError) as caught:
            open_rows(prefix)
        assert str(caught.value.where) == str(path), (place, caught.value)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(OctoError, match="not valid JSON"):
        open_rows(prefix)


def test_manifests_of_earlier_versions(prefix: Path) -> None:
    path = Path(f"{prefix}.json")
    content = json.loads(path.read_text())
    for key in ("digest", "pretraining"):
        content.pop(key)
    content["tokenizer"].pop("control")
    path.write_text(json.dumps(content))
    manifest = read_manifest(prefix)
    assert manifest is not None and manifest.pretraining is None and not manifest.tokenizer.control
    assert open_rows(prefix).vocab_size == 200
