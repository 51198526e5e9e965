"""The state of a run: how much of it is read, and that records which are not valid stop nothing."""

import json
from pathlib import Path

import pytest

from megatron_octo import submit
from megatron_octo.cluster.status import newest_log, status_of
from megatron_octo.common import jsonl
from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.loading import build_recipe, dump_recipe
from megatron_octo.runfiles import attempts as records
from tests.conftest import recipe_tree

LINES = 20_000


def make_run(folder: Path, name: str) -> Path:
    run = folder / "runs" / name
    (run / "attempts").mkdir(parents=True)
    recipe = build_recipe(recipe_tree(folder / "corpus", run, train={"steps": LINES}))
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    records.begin_attempt(run, 1, world=1)
    return run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A long run of one attempt, without SLURM."""
    monkeypatch.setenv("PATH", "")
    run = make_run(tmp_path, "long")
    with open(run / "metrics.jsonl", "w") as file:
        for step in range(1, LINES + 1):
            file.write(json.dumps({"step": step, "loss": 2.0, "step_s": 0.5, "attempt": 1, "more": "x" * 200}) + "\n")
    return run


def read_by(call: object) -> int:
    """Bytes that a call reads, by the kernel's account of this process."""

    def count() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])

    before = count()
    call()  # type: ignore[operator]
    return count() - before


def test_status_and_list_read_the_end_of_the_metrics(run: Path) -> None:
    size = (run / "metrics.jsonl").stat().st_size
    assert size > 16 * jsonl.TAIL
    assert read_by(lambda: status_of(run)) < 2 * jsonl.TAIL
    assert read_by(lambda: submit.main(["list", str(run.parent)])) < 2 * jsonl.TAIL
    status = status_of(run)
    assert (status.step, status.loss) == (LINES, 2.0)
    assert [(row.first, row.last) for row in status.rows] == [(None, LINES)], "its first step is not looked for"


ODD = [
    ("attempts/001 copy.json", "{}"),
    ("attempts/002.json", "[1]"),
    ("attempts/003.json", '{"started": "soon"}'),
    ("attempts/004.json", "[" * 100_000),
    ("attempts/005.json", '{"started": 1e300, "ended": -5}'),
    ("errors/attempt-001-rank-00000.json", '{"attempt": 1}'),
    ("state.json", "[1]"),
    ("state.json", '{"status": 3, "step": "x"}'),
    ("metrics.jsonl", '{}\n[]\n{"step": -1}\n{"step": 1e99}\n\x00\n'),
    ("slurm.jsonl", '{}\n{"event": "start", "job": [], "restart": {}}\n{"event": "start", "job": "7"}\n'),
    ("submit/jobs.jsonl", '{}\n{"stage": "train", "job": "--user=root"}\n'),
]


@pytest.mark.parametrize(("name", "text"), ODD)
def test_a_record_that_is_not_valid_is_passed_over_and_named(
    name: str, text: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, "other")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(text)
    for words in (["status", str(run)], ["list", str(run.parent)]):
        assert submit.main(words) == 0
        said = capsys.readouterr().out
        assert f"ignored   {run / name}: " in said
        assert words[0] == "status" or "runs/other" in said


@pytest.mark.slow
def test_a_run_that_cannot_be_read_hides_no_other(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, "other")
    for text in ("a: [\n", "- 1\n", "[" * 5000, "\x1b[2J: 1\n"):
        (run / "recipe.yaml").write_text(text)
        assert submit.main(["list", str(run.parent)]) == 0
        said = capsys.readouterr().out
        assert "runs/long" in said and "cannot be read" in said and "runs/other" in said
        assert "\x1b" not in said


def test_logs_are_named_by_their_job_and_hold_no_control_characters(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OctoError, match="no log yet"):
        newest_log(run, None)
    (run / "logs").mkdir()
    (run / "logs/attempt-002.log").write_text("by hand\n")
    assert newest_log(run, None)[1] == "attempt 2, by hand"
    logs = run / "submit/logs"
    logs.mkdir(parents=True)
    for name in ("train-12", "train-9", "convert-13", "preprocess-8_3", "odd", "train-x"):
        (logs / f"{name}.log").write_text(f"{name}\n")
    (logs / "train-99.log").mkdir()
    assert newest_log(run, None) == (logs / "convert-13.log", "job 13, convert")
    assert newest_log(run, "train") == (logs / "train-12.log", "job 12, train")
    (logs / "train-12.log").write_bytes(b"a\r\n\x1b[2Jb\xff\n\tc\n")
    assert submit.main(["logs", str(run), "--stage", "train", "--lines", "2"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f"==> {logs}/train-12.log: job 12, train <=="
    assert lines == ["\\x1b[2Jb\ufffd", "\tc"]
