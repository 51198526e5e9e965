"""Run directories whose files are replaced at random: every command that reads them answers, without a traceback."""

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_octo import inspect, submit
from megatron_octo.cluster import job_starts, snapshot
from megatron_octo.cluster.profile import Profile
from megatron_octo.cluster.script import jobs_of
from megatron_octo.cluster.stages import Order
from megatron_octo.common.errors import OctoError, run_command
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.scores import Score, ScoreLine, TaskScores, append_scores
from tests.training.runs import TestRun, small_corpus

SEED, COUNT = int(os.environ.get("VANDAL_SEED", "1")), int(os.environ.get("VANDAL_COUNT", "60"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of two steps with every kind of record beside it, as after a submission."""
    folder = tmp_path_factory.mktemp("original")
    made = TestRun(folder, small_corpus(folder), checkpoint={"interval": 1, "keep": 9})
    made.train(1, "train.steps=2")
    run = made.path
    records.write_error(run, attempt=1, rank=0, kind="hang", step=1, phase="x", what="stuck", traceback="a\nb")
    (run / "validation.jsonl").write_text('{"step": 1, "name": "valid", "loss": 2.0}\n')
    score = {"value": 20.0, "low": 3.6, "high": 62.5}
    found = TaskScores({"1": Score(**score)}, problems=5, samples=5)
    append_scores(run, ScoreLine(step=1, attempt=1, kind="weights", time=1.0, seconds=1.0, tasks={"a-python": found}))
    (run / "evaluation").mkdir()
    (run / "evaluation/scores.json").write_text(json.dumps({"tasks": {"a-python": {"pass@1": score}}}))
    start = job_starts.Start("7", 0, 1.0, ("n1",), 0)
    job_starts.write_start(run, start)
    order = Order(load_recipe(run / "recipe.yaml"), Profile(gpus_per_node=1), ("train", "convert"), folder, "python")
    (run / "submit/logs").mkdir(parents=True)
    (run / "submit/logs/train-7.log").write_text("error: something\n")
    for job in jobs_of(order):
        (run / job.script.relative_to(order.run)).write_text(job.text)
        snapshot.write_job(run, job.stage, "7", None)
    (run / "submit/order.json").write_text(json.dumps(snapshot.order_record(order)))
    return run


NESTED = b"[" * 200_000
TEXTS: list[bytes] = [
    b"",
    b"\x00" * 100,
    b"[1]",
    b"{}",
    b"null",
    b"3",
    b'"x"',
    b"\xff\xfe\x00",
    NESTED,
    b'{"a":' * 50_000,
    b"NaN\n{}\n[]\n",
    b'{"step": 1e999, "status": [], "started": "x", "files": 3}',
    b"<script>alert(1)</script>\x1b[2J\x1b]0;x\x07",
    b"&a [*a, *a]\n",
    b"a: !!python/object/apply:os.system [x]\n",
    b"9" * 6000,
    os.urandom(4000),
]
ODD: list[object] = [
    None,
    -1,
    0,
    10**30,
    1e308,
    -5.5,
    True,
    "",
    "x",
    "\x1b[2J\n",
    "<script>alert(1)</script>",
    [],
    [[]],
    {},
    {"a": {}},
    "9" * 50,
]


def _mutate(value: object, draw: random.Random) -> object:
    """Replace one value somewhere in a JSON tree, or drop a key."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        if draw.random() < 0.2:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: _mutate(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], _mutate(value[place], draw), *value[place + 1 :]]
    return draw.choice(ODD)


def _vandalise(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    kind = draw.randrange(6)
    if kind == 0:
        path.unlink()
        path.mkdir()
        (path / "inside").write_bytes(b"x")
    elif kind == 1 and data:
        place = draw.randrange(len(data))
        path.write_bytes(data[:place] + bytes([draw.randrange(256)]) + data[place + draw.randrange(50) :])
    elif kind >= 3:
        with contextlib.suppress(ValueError):
            lines = [json.loads(line) for line in data.split(b"\n") if line.strip()] if path.suffix == ".jsonl" else []
            changed = [_mutate(line, draw) for line in lines] if lines else [_mutate(json.loads(data), draw)]
            path.write_text("".join(json.dumps(line) + "\n" for line in changed))
            return
        path.write_bytes(draw.choice(TEXTS))
    else:
        path.write_bytes(draw.choice(TEXTS))


def _answer(command: Callable[[], int]) -> tuple[object, str]:
    """Exit code and output of a command, as its process would have."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.raises(SystemExit) as left:
        run_command(command)
    return left.value.code, out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(COUNT))
def test_every_command_answers(number: int, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    draw = random.Random(f"{SEED} {number}")
    run, good = tmp_path / "odd", tmp_path / "good"
    shutil.copytree(original, run)
    shutil.copytree(original, good)
    files = sorted(path for path in run.rglob("*") if path.is_file() and "logs" not in path.parts)
    for path in draw.sample(files, draw.randint(1, 3)):
        _vandalise(path, draw)
    if draw.random() < 0.3:
        (run / "attempts" / draw.choice(["001 copy.json", "0x1.json", "-1.json", "²²².json", "0001.json"])).touch()
    page = tmp_path / "page.html"
    commands: dict[str, Callable[[], int]] = {
        "inspect": lambda: inspect.main([str(run)]),
        "report": lambda: inspect.main([str(run), "--full", "--report", str(page)]),
        "step": lambda: inspect.main([str(run), "--step", "1"]),
        "status": lambda: submit.main(["status", str(run)]),
        "json": lambda: submit.main(["status", str(run), "--json"]),
        "list": lambda: submit.main(["list", str(tmp_path)]),
        "logs": lambda: submit.main(["logs", str(run)]),
        "resume": lambda: submit.main(["resume", str(run)]),
        "cancel": lambda: submit.main(["cancel", str(run)]),
    }
    for name, command in commands.items():
        code, said = _answer(command)
        assert code in (0, 2), f"{name}: {said}"
        assert "\x1b" not in said and "\x07" not in said, name
        assert name != "list" or (code == 0 and f"{good} " in said)
    if page.exists():
        assert "<script" not in page.read_text() and "\x1b" not in page.read_text()


def test_what_cannot_be_read_is_said_by_a_start(original: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(original, run)
    (run / "attempts/001.json").write_text("[]")
    (run / "attempts/002 copy.json").write_text("{}")
    said: list[str] = []
    assert records.read_attempts(run, said.append) == []
    assert len(said) == 2 and records.attempt_numbers(run) == [1], "a number is not given again"
    with pytest.raises(OctoError, match="not a valid record"):
        records.read_attempt(run, 1)
