from pathlib import Path

import pytest

from megatron_octo.commits.rows import FolderWriter, Job, read_rows
from megatron_octo.commits.rows import folder as folders
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json
from tests.commits.rows.made import made_rows


def test_a_folder_has_parts_and_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "PART", 500)
    with FolderWriter(tmp_path / "out", Job("make", {"seed": 3}), inputs=[{"path": "a"}]) as writer:
        for row in made_rows(40):
            writer.write(row.mark("odd") if int(row.commit, 16) % 2 else row)
        writer.facts["groups"] = 7
    assert [row.commit for row in read_rows(tmp_path / "out")] == [row.commit for row in made_rows(40)]
    manifest = read_json(tmp_path / "out" / "stage.json")
    assert (manifest["rows"], manifest["kept"], manifest["dropped"]) == (40, 20, {"odd": 20})
    assert (manifest["groups"], manifest["settings"], len(manifest["parts"]) > 2) == (7, {"seed": 3}, True)
    with pytest.raises(OctoError, match="exists already"), FolderWriter(tmp_path / "out", Job("make")):
        pass


def test_one_file(tmp_path: Path) -> None:
    with FolderWriter(tmp_path / "out.jsonl.gz", Job("make"), rows_in=50) as writer:
        for row in made_rows(40):
            writer.write(row)
    assert sum(1 for _ in read_rows(tmp_path / "out.jsonl.gz")) == 40
    assert read_json(tmp_path / "out.jsonl.gz.stage.json")["rows_in"] == 50


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_an_error_leaves_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(RuntimeError), FolderWriter(tmp_path / name, Job("make")) as writer:
        for row in made_rows(4):
            writer.write(row)
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_no_rows(tmp_path: Path) -> None:
    with FolderWriter(tmp_path / "out", Job("make")):
        pass
    assert list(read_rows(tmp_path / "out")) == []
