"""``octo schema`` prints the schema and renews generated files."""

import json
from pathlib import Path

import pytest

from megatron_octo import schema
from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.reference import json_schema
from tests.places import PROJECT


def test_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.main([]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_renews_what_is_out_of_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, target = tmp_path / "recipes.md", tmp_path / "recipe.schema.json"
    current = (PROJECT / "docs/recipes.md").read_text()
    page.write_text(current.replace("| `train.seed` | 1234 |", "| `train.seed` | 4321 |"))
    assert schema.main(["--update", str(target), str(page)]) == 0
    assert (page.read_text(), capsys.readouterr().out) == (current, "")
    assert json.loads(target.read_text()) == json_schema()


def test_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(OctoError, match=r"neither \.json nor \.md"):
        schema.main(["--update", str(tmp_path / "recipe.yaml")])
