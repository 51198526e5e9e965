"""An export that follows its run: which one stays, which one is replaced, and kills on the way."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.writers.renew import renew


class Exporter:
    """Writes a word into an export, and counts how often; dies first if it is told to."""

    def __init__(self) -> None:
        self.word, self.calls, self.dies = "", 0, False

    def __call__(self, output: Path) -> None:
        self.calls += 1
        output.mkdir()
        (output / "model").write_text(self.word)
        if self.dies:
            raise KeyboardInterrupt
        (output / "conversion.json").write_text('{"files": {}}')


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save(tmp_path / "run", 10, "xxh3:1")
    return tmp_path / "run"


def save(run: Path, step: int, digest: str) -> None:
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"digest": digest}))
    (run / "checkpoints/latest").write_text(folder.name)


def test_an_export_follows_its_run(run: Path) -> None:
    export, asked, out = Exporter(), dict[str, Any](dtype=None), run / "hf"

    def now(word: str, calls: int, **changed: Any) -> None:
        export.word = word
        renew(run, out, export, {**asked, **changed})
        assert ((out / "model").read_text(), export.calls) == (word, calls)
        assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "hf"]

    now("ten", 1)
    now("ten", 1)
    save(run, 20, "xxh3:2")
    now("twenty", 2)
    save(run, 20, "xxh3:3")  # rolled back, and trained again
    now("another twenty", 3)
    now("halves", 4, dtype="bf16")
    assert json.loads((out / "conversion.json").read_text())["files"] == {}


def test_kills_on_the_way(run: Path) -> None:
    export, out = Exporter(), run / "hf"
    export.word = "ten"
    renew(run, out, export, {})
    save(run, 20, "xxh3:2")
    export.word, export.dies = "twenty", True
    with pytest.raises(KeyboardInterrupt):
        renew(run, out, export, {})
    assert (out / "model").read_text() == "ten", "the old one stays until the new one is complete"
    export.dies = False
    renew(run, out, export, {})
    assert ((out / "model").read_text(), export.calls) == ("twenty", 3)
    out.rename(run / "hf.new")  # between the two names
    renew(run, out, export, {})
    assert ((out / "model").read_text(), export.calls) == ("twenty", 3)


def test_what_is_no_export_is_not_replaced(run: Path) -> None:
    (run / "hf").mkdir()
    (run / "hf/thesis.tex").touch()
    with pytest.raises(OctoError, match="not an export that could be replaced"):
        renew(run, run / "hf", Exporter(), {})
    assert (run / "hf/thesis.tex").exists()
