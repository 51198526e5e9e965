"""The starts of a run: what is written line by line, counted, and shown. tests/slurm makes them on a cluster."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from megatron_octo.cluster import job_starts as ledger
from megatron_octo.cluster.job_starts import Start
from megatron_octo.cluster.status import render, status_of
from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.loading import build_recipe, dump_recipe
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.run_lock import Owner
from tests.conftest import recipe_tree

NOW = time.time()


def start(
    restart: int, reason: str | None = None, *failed: str, saved: tuple[int, int] = (0, 0), job: str = "7"
) -> Start:
    begun = Start(job, restart, NOW + restart, ("n1", "n2"), saved[0])
    if reason is None:
        return begun
    return replace(begun, ended=NOW + restart + 1, reason=reason, failed_nodes=failed, saved_after=saved[1], code=76)


def test_written_and_read_again(tmp_path: Path) -> None:
    assert ledger.read_starts(tmp_path) == []
    first, second = start(0, "hang", "n2", saved=(0, 10)), start(1, saved=(10, 10))
    ledger.write_start(tmp_path, start(0))
    ledger.write_end(tmp_path, first)
    ledger.write_start(tmp_path, second)
    assert ledger.read_starts(tmp_path) == [first, second]
    with open(tmp_path / ledger.LEDGER, "a") as file:
        file.write('{"event": "end", "job": "7", "rest')  # the power was cut
    assert ledger.read_starts(tmp_path) == [first, second]
    third = start(2, "error", saved=(10, 10))
    ledger.write_start(tmp_path, start(2, saved=(10, 10)))
    ledger.write_end(tmp_path, third)
    assert ledger.read_starts(tmp_path) == [first, second, third], "what comes after is not lost with it"


def test_what_was_lost_does_not_take_the_rest_along(tmp_path: Path) -> None:
    ledger.write_end(tmp_path, start(0, "hang"))  # the line of its start is gone
    with open(tmp_path / ledger.LEDGER, "ab") as file:
        file.write(b"\xff\0\0{}\n")
    ledger.write_start(tmp_path, start(1))
    assert ledger.read_starts(tmp_path) == [start(1)]


def test_restarts_without_progress_are_counted() -> None:
    bad = [start(n, "hang", saved=(10, 10)) for n in range(3)]
    assert ledger.fruitless(bad, "7") == 3
    assert ledger.fruitless(bad, "8") == 0, "a new job has all its restarts"
    assert ledger.fruitless([*bad, start(3, "error", saved=(10, 20))], "7") == 0
    assert ledger.fruitless([start(0, "hang", saved=(0, 10)), *bad[1:]], "7") == 2
    assert ledger.fruitless([bad[0], start(1, "preempted", saved=(10, 10)), bad[2]], "7") == 2, "nobody's fault"
    assert ledger.fruitless([*bad, start(3)], "7") == 3, "what runs has not failed yet"


def test_a_node_is_bad_after_two_failures_within_a_week() -> None:
    once = [start(0, "hang", "n1"), start(1, "node failure", "n2"), start(2, "finished")]
    assert ledger.bad_nodes(once) == set()
    assert ledger.bad_nodes([*once, start(3, "lost rank", "n2")]) == {"n2"}
    old = [replace(item, time=item.time - 8 * 86400) for item in once]
    assert ledger.bad_nodes([*old, start(3, "lost rank", "n2")]) == set()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Ten of twenty steps, an error, and eleven more steps that go on."""
    run = tmp_path / "runs" / "a"
    (run / records.ATTEMPTS).mkdir(parents=True)
    recipe = build_recipe(recipe_tree(tmp_path / "corpus", run, train={"steps": 40}))
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    for number, first, last in ((1, 1, 12), (2, 11, 20)):
        records.begin_attempt(run, number, world=2)
        with open(run / "metrics.jsonl", "a") as file:
            for step in range(first, last + 1):
                file.write(json.dumps({"step": step, "loss": 5.0, "step_s": 2.0, "attempt": number}) + "\n")
    return run


def test_status_of_a_run_without_slurm(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    records.write_error(
        run, attempt=1, rank=1, kind="error", step=13, phase="gradients", what="bad luck", traceback="a\nb"
    )
    records.end_attempt(run, 1, reason="error", exit_code=1, last_step=12, culprits=(1,))
    status = status_of(run)
    assert (status.state, status.step, status.steps, status.saved) == ("stopped", 20, 40, 0)
    assert [(row.first, row.last, row.reason, row.lines) for row in status.rows] == [
        (1, 12, "error", ("a", "b")),
        (11, 20, "no record of its end", ()),
    ]
    assert status.seconds_left is None
    (run / "lock").write_text(json.dumps({**asdict(Owner.me(3)), "host": "elsewhere"}))
    status = status_of(run)
    assert (status.state, status.seconds_left) == ("running", 40.0)
    text = render(status)
    assert "step 20 of 40 (50%), saved at 0, loss 5.0000, 40 s left" in text
    assert "               | b" in text.splitlines()
    (run / "state.json").write_text('{"status": "finished", "step": 40}')
    assert status_of(run).state == "finished"
    with pytest.raises(OctoError, match="no run here"):
        status_of(run.parent)
