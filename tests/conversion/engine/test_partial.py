"""The moment in which a conversion gets its name: what is on the disk before, and what a kill beside it leaves."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.common import files
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.engine.partial import PartialOutput
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_bigcode import to_bigcode
from tests.conversion.models import small_model, write_hf


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("partial") / "hf"
    write_hf(directory, small_model())
    return directory


def convert(hf: Path, out: Path) -> None:
    to_bigcode(open_weights(hf, stream=True), out, pipeline=2)


def test_all_of_it_is_on_the_disk_before_it_has_its_name(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    fsync, replace = os.fsync, os.replace

    def keep(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    def rename(source: Path, target: Path) -> None:
        if Path(target).name == "out":
            found = {path.relative_to(source) for path in synced if path.is_relative_to(source)}
            wanted = {path.relative_to(source) for path in [source, *source.rglob("*")]}
            assert found == wanted and Path("release/mp_rank_00_001") in found
        replace(source, target)

    monkeypatch.setattr(os, "fsync", keep)
    monkeypatch.setattr(os, "replace", rename)
    convert(hf, tmp_path / "out")
    with files.atomic_directory(tmp_path / "sub/out") as aside:
        (aside / "a/b").mkdir(parents=True)
        (aside / "a/b/file").write_text("x")
        synced.clear()
        monkeypatch.setattr(os, "replace", lambda source, target: replace(source, target))
    assert {path.name for path in synced} >= {"a", "b", "file"}


def killed(moment: Callable[[Any], None], hf: Path, out: Path) -> None:
    """Convert in a process of its own that ``moment`` prepares to be killed."""

    def child() -> None:
        moment(os.replace)
        convert(hf, out)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def die(before: bool) -> Callable[[Any], None]:
    def prepare(replace: Any) -> None:
        def rename(source: Path, target: Path, **_: Any) -> None:
            last = Path(target).name == "out"
            if not (before and last):
                replace(source, target)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, "replace", rename)  # noqa: B010 - for the checker of types

    return prepare


def test_killed_before_it_has_its_name_it_has_no_work_left(hf: Path, tmp_path: Path) -> None:
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    killed(die(before=True), hf, out)
    assert not out.exists()
    assert len(json.loads((partial / ".journal.json").read_text())["files"]) == 2
    times = {path.relative_to(partial / "files"): path.stat().st_mtime_ns for path in partial.rglob("*.pt")}
    convert(hf, out)
    assert times == {path.relative_to(out): path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_killed_after_it_has_its_name_it_is_complete(hf: Path, tmp_path: Path) -> None:
    killed(die(before=False), hf, tmp_path / "out")
    convert(hf, tmp_path / "whole")
    for path in (path for path in (tmp_path / "whole").rglob("*") if path.is_file()):
        assert (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert not list((tmp_path / "out").glob(".*"))
    with pytest.raises(OctoError, match="exists already"):
        convert(hf, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]  # the journal went, too


def test_what_another_job_or_version_left_is_no_part_of_it(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    (left / "release/mp_rank_07").mkdir(parents=True)  # as an earlier version laid it out
    (left / "files/release/mp_rank_05").mkdir(parents=True)
    for place in ("release/mp_rank_07/x.pt", "files/release/mp_rank_05/x.pt", "files/.tmp"):
        (left / place).write_text("x")
    with PartialOutput(tmp_path / "out", {"job": 1}) as partial:
        (partial.path / "file").write_text("y")
        partial.commit()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
