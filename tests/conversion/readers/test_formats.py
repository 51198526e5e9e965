"""Formats are told apart by their files, and an index names every file of a sharded model."""

import json
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.readers.formats import INDEX, SINGLE, format_of, indexed_files


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("manifest.json", "checkpoint"),
        ("checkpoints/latest", "checkpoint"),
        ("config.json", "huggingface"),
        ("latest_checkpointed_iteration.txt", "bigcode"),
        ("mp_rank_01_003/model_rng.pt", "bigcode"),
    ],
)
def test_one_file_tells_the_format(tmp_path: Path, name: str, format: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    assert format_of(tmp_path) == format


def test_neither(tmp_path: Path) -> None:
    (tmp_path / "mp_rank_1").mkdir()
    with pytest.raises(OctoError, match="no weights here"):
        format_of(tmp_path)
    with pytest.raises(OctoError, match="no such directory"):
        format_of(tmp_path / "nothing")


def test_files_of_a_model(tmp_path: Path) -> None:
    with pytest.raises(OctoError, match="neither"):
        indexed_files(tmp_path)
    (tmp_path / SINGLE).write_text("")
    assert indexed_files(tmp_path) is None
    (tmp_path / SINGLE).unlink()
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "x.safetensors"}}))
    assert indexed_files(tmp_path) == {"a": "x.safetensors"}


@pytest.mark.parametrize(
    "tree", [[], {}, {"weight_map": ["a"]}, {"weight_map": {"a": "../x"}}, {"weight_map": {"a": ""}}]
)
def test_a_broken_index(tmp_path: Path, tree: object) -> None:
    (tmp_path / INDEX).write_text(json.dumps(tree))
    with pytest.raises(OctoError, match="no weight_map of file names"):
        indexed_files(tmp_path)
