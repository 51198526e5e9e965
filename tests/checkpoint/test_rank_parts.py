"""Parts of several ranks become one manifest's contents."""

from pathlib import Path

import pytest

from megatron_octo.checkpoint.directory import Fragment, TensorEntry
from megatron_octo.checkpoint.rank_parts import merge_parts, part_name, write_part
from megatron_octo.common.errors import OctoError


def entry(file: str, row: int) -> TensorEntry:
    return TensorEntry((4, 3), "F32", (Fragment(file, "x", (row, 0), (2, 3), (0, 6)),))


def test_fragments_of_one_tensor_come_together(tmp_path: Path) -> None:
    for rank in (0, 1):
        file = f"weights-{rank}"
        record = {file: {"bytes": rank, "digest": f"d{rank}"}}
        write_part(
            tmp_path,
            rank,
            record,
            {"weights": {"a": entry(file, 2 * rank)}, "exp_avg": {f"m{rank}": entry(file, 0)}},
        )
    write_part(tmp_path, 2, {}, {})  # a rank that stores nothing
    files, tensors = merge_parts(tmp_path, 3)
    assert files == {"weights-0": {"bytes": 0, "digest": "d0"}, "weights-1": {"bytes": 1, "digest": "d1"}}
    both = entry("weights-0", 0).fragments + entry("weights-1", 2).fragments
    assert tensors["weights"] == {"a": TensorEntry((4, 3), "F32", both)}
    assert list(tensors["exp_avg"]) == ["m0", "m1"]
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    write_part(tmp_path, 0, {}, {})
    with pytest.raises(OctoError) as caught:
        merge_parts(tmp_path, 2)
    assert caught.value.where == tmp_path / part_name(1)
