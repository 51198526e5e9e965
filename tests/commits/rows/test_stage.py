"""Stages over real processes: counts add up, the same bytes whatever the processes and kills."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.commits.rows import Job, Row, Task, Writer, read_rows, run_stage, run_tasks
from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing import sources
from tests.commits.rows.made import halve, killed, loses, made_rows, thirds, write_rows

ROWS = 400


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_SMALLEST", 1 << 13)
    monkeypatch.setattr(sources, "_PIECES", 8)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "stage.json").read_bytes())
    return found


def test_counts_add_up_over_a_chain(tmp_path: Path, rows: Path) -> None:
    one = run_stage("halve", [rows], tmp_path / "one", halve, signals={"half": "float"})
    assert (one["rows_in"], one["rows"], one["kept"]) == (ROWS, ROWS, ROWS // 2)
    assert one["dropped"] == one["dropped_here"] == {"odd": ROWS // 2}
    two = run_stage("thirds", [tmp_path / "one"], tmp_path / "two", thirds)
    third = sum(number % 3 == 0 for number in range(0, ROWS, 2))
    assert (two["rows_in"], two["rows"], two["kept"]) == (ROWS, ROWS, ROWS // 2 - third)
    assert two["dropped"] == {"odd": ROWS // 2, "third": third}
    assert two["dropped_here"] == {"third": third}
    found = list(read_rows(tmp_path / "two"))
    assert [row.commit for row in found] == [row.commit for row in made_rows(ROWS)]
    assert found[3].drop_why == "3 is odd" and found[3].signals["half"] == 1.5
    assert sum(part["rows"] for part in two["parts"]) == ROWS and len(two["parts"]) > 3


def test_dropped_rows_can_be_left_out(tmp_path: Path, rows: Path) -> None:
    one = run_stage("halve", [rows], tmp_path / "one", halve, leave_out=True)
    assert (one["rows_in"], one["rows"], one["kept"]) == (ROWS, ROWS, ROWS // 2)
    assert sum(1 for _ in read_rows(tmp_path / "one")) == ROWS // 2


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.zst", "parquet"])
@pytest.mark.slow
def test_bytes_do_not_depend_on_processes(tmp_path: Path, kind: str) -> None:
    source = write_rows(tmp_path / f"rows.{kind}", ROWS)
    run_stage("halve", [source], tmp_path / "one", halve, jobs=1)
    run_stage("halve", [source], tmp_path / "two", halve, jobs=2)
    assert parts(tmp_path / "one") == parts(tmp_path / "two")
    assert not list(tmp_path.glob("*.work"))


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst", "jsonl.xz", "jsonl.bz2", "parquet"])
def test_one_file_joins_the_parts(tmp_path: Path, rows: Path, suffix: str) -> None:
    out = tmp_path / f"out.{suffix}"
    found = run_stage("halve", [rows], out, halve)
    assert [row.commit for row in read_rows(out)] == [row.commit for row in made_rows(ROWS)]
    assert found["parts"][0]["bytes"] == out.stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", out.name, f"{out.name}.stage.json"}


def test_a_finished_output_is_known_again_and_another_is_kept(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (tmp_path / "out", tmp_path / "out.jsonl"):
        first = run_stage("halve", [rows], out, halve)
        assert run_stage("halve", [rows], out, halve) == first
        assert "is complete already" in capsys.readouterr().err
        for changed in ({"settings": 3}, {"leave_out": True}):
            with pytest.raises(OctoError, match="exists already"):
                run_stage("halve", [rows], out, halve, **changed)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OctoError, match="exists already"):
        run_stage("halve", [rows], tmp_path / "file", halve)
    assert (tmp_path / "file").read_text() == "mine"


def run_killed(source: Path, out: Path, at: int, jobs: int) -> int:
    program = (
        "import sys\n"
        "from megatron_octo.data.preprocessing import sources\n"
        "sources._SMALLEST, sources._PIECES = 1 << 13, 8\n"
        "from tests.commits.rows.made import killed\n"
        "from megatron_octo.commits.rows import run_stage\n"
        "if __name__ == '__main__':\n"
        "    run_stage('killed', [sys.argv[1]], sys.argv[2], killed, settings='s', jobs=int(sys.argv[3]))\n"
    )
    script = source.parent / "program.py"
    script.write_text(program)
    more = {"KILL_AT": str(at), "PYTHONPATH": os.getcwd()} | ({"KILL_PARENT": "1"} if jobs > 1 else {})
    command = [sys.executable, str(script), str(source), str(out), str(jobs)]
    return subprocess.run(command, env=os.environ | more, check=False).returncode


@pytest.mark.slow
@pytest.mark.parametrize(("out", "jobs"), [("out", 1), ("out.jsonl.gz", 1), ("out", 2)])
@pytest.mark.slow
def test_kills_leave_the_same_bytes(tmp_path: Path, rows: Path, out: str, jobs: int) -> None:
    wanted = tmp_path / f"wanted-{out}"
    run_stage("killed", [rows], wanted, killed, settings="s")
    kept: list[set[str]] = []
    for at in (0, ROWS // 3, ROWS // 2 + 1, ROWS - 1):
        assert run_killed(rows, tmp_path / out, at, jobs) == -signal.SIGKILL
        assert not (tmp_path / out).exists()
        kept.append({path.name for path in (tmp_path / f"{out}.work").glob("part-*.json")})
    assert kept[0] <= kept[1] <= kept[2] <= kept[3] and len(kept[3]) > 2
    times = {name: (tmp_path / f"{out}.work" / name).stat().st_mtime_ns for name in kept[3]}
    assert len(times) == len(kept[3])
    run_stage("killed", [rows], tmp_path / out, killed, settings="s")
    if wanted.is_dir():
        assert parts(tmp_path / out) == parts(wanted)
    else:
        assert (tmp_path / out).read_bytes() == wanted.read_bytes()
    assert not (tmp_path / f"{out}.work").exists()


def half_made(source: Path, out: Path) -> dict[str, int]:
    """Let a run fail at its last rows; returns the times of the finished parts."""
    text = source.read_text()
    source.write_text(text + "{\n")
    with pytest.raises(OctoError, match="not a row of a commit") as stop:
        run_stage("halve", [source], out, halve)
    assert str(stop.value.where) == f"{source}:{ROWS + 1}"
    assert not out.exists()
    return {path.name: path.stat().st_mtime_ns for path in (out.parent / f"{out.name}.work").glob("*.parquet")}


def test_parts_of_a_changed_input_are_made_again(tmp_path: Path, rows: Path) -> None:
    out, text = tmp_path / "out", rows.read_text()
    assert len(half_made(rows, out)) > 2
    rows.write_text(text.replace("Change 3", "Chance 3"))
    run_stage("halve", [rows], out, halve)
    run_stage("halve", [rows], tmp_path / "fresh", halve)
    assert parts(out) == parts(tmp_path / "fresh")


def test_parts_of_a_touched_input_are_kept_if_its_bytes_are_the_same(tmp_path: Path, rows: Path) -> None:
    """Size and time are the same in both cases, the inode is another: the bytes decide."""
    out = tmp_path / "out"
    text = rows.read_text()
    stamp = rows.stat().st_mtime_ns
    before = half_made(rows, out)
    other = tmp_path / "other"
    for changed, same in ((text + "{\n", True), (text.replace("Change", "Chance") + "{\n", False)):
        other.write_text(changed)
        bad = rows.stat()
        os.utime(other, ns=(stamp, bad.st_mtime_ns))
        os.replace(other, rows)
        with pytest.raises(OctoError, match="not a row of a commit"):
            run_stage("halve", [rows], out, halve)
        after = {name: (tmp_path / "out.work" / name).stat().st_mtime_ns for name in before}
        assert (after == before) is same


def test_a_damaged_part_is_made_again(tmp_path: Path, rows: Path) -> None:
    out, text = tmp_path / "out", rows.read_text()
    stamp = rows.stat()
    half_made(rows, out)
    part = tmp_path / "out.work" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-5])
    rows.write_text(text)
    os.utime(rows, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    run_stage("halve", [rows], out, halve)
    assert sum(1 for _ in read_rows(out)) == ROWS


def test_a_stage_that_loses_rows_is_a_fault(tmp_path: Path, rows: Path) -> None:
    with pytest.raises(AssertionError, match="rows of"):
        run_stage("loses", [rows], tmp_path / "out", loses)
    found = run_stage("loses", [rows], tmp_path / "out", loses, same_count=False)
    assert found["rows"] == ROWS - sum(part["rows_in"] > 0 for part in found["parts"])


def test_two_processes_do_not_make_the_same_output(tmp_path: Path, rows: Path) -> None:
    from megatron_octo.commits.rows.ledger import Ledger

    with Ledger(tmp_path / "out", "job").held(), pytest.raises(OctoError, match="another process"):
        run_stage("halve", [rows], tmp_path / "out", halve)


def work(write: Any) -> dict[str, Any]:
    write(Row("c"))
    return {"state": "ok"}


def test_tasks_that_read_no_rows(tmp_path: Path) -> None:
    tasks = [Task({"number": number}, work) for number in range(3)]
    found = run_tasks(Job("tasks"), tasks, tmp_path / "out", inputs=[], total=3, jobs=1)
    assert (found["rows_in"], found["rows"], [part["state"] for part in found["parts"]]) == (3, 3, ["ok"] * 3)
    with pytest.raises(OctoError, match="at least 1"):
        run_tasks(Job("tasks"), tasks, tmp_path / "out", inputs=[], total=3, jobs=0)


@pytest.mark.parametrize("removed", [0, 2])
def test_a_kill_while_the_output_is_put_into_place(tmp_path: Path, rows: Path, removed: int) -> None:
    """The manifest is written, records are being removed, the directory is not renamed."""
    run_stage("halve", [rows], tmp_path / "out", halve)
    wanted = parts(tmp_path / "out")
    work_directory = tmp_path / "out.work"
    os.replace(tmp_path / "out", work_directory)
    for number in range(removed):
        (work_directory / f"part-{number:05d}.json").write_text("{}")
    run_stage("halve", [rows], tmp_path / "out", halve)
    assert parts(tmp_path / "out") == wanted and not work_directory.exists()


def test_extra_parts_of_an_earlier_start_do_not_stay(tmp_path: Path, rows: Path) -> None:
    work_directory = tmp_path / "out.work"
    work_directory.mkdir()
    with Writer(work_directory / "part-00099.parquet") as writer:
        writer.write(Row("c"))
    (work_directory / "part-00099.json").write_text("{}")
    run_stage("halve", [rows], tmp_path / "out", halve)
    assert sum(1 for _ in read_rows(tmp_path / "out")) == ROWS
    assert not (tmp_path / "out" / "part-00099.parquet").exists()
