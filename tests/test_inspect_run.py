"""``inspect RUN``: a real run that was killed and went on, its page, and what a step was made of."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.inspect import main
from megatron_octo.runfiles.run_lock import Owner
from megatron_octo.runfiles.scores import Score, ScoreLine, TaskScores, append_scores
from megatron_octo.runview import charts
from megatron_octo.runview.load import load_run
from megatron_octo.runview.page import render
from tests.training.runs import STEPS, TestRun, exit_codes, small_corpus

pytestmark = pytest.mark.slow

SAVES = {"interval": 1, "keep": 9, "asynchronous": False}  # a step is saved before the next one begins
VALIDATED = {"eval": {"interval": 2, "steps": 1}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TestRun:
    """Killed after the third step, stopped by a signal after the fourth or later, then finished."""
    folder = tmp_path_factory.mktemp("inspect")
    corpus = small_corpus(folder)
    data = {"valid": f"validation: 1.0 0:1 {corpus}"}
    made = TestRun(folder, corpus, checkpoint=SAVES, **VALIDATED)
    tree = made.recipe.read_text().replace("data:\n", f"data:\n  valid: '{data['valid']}'\n")
    made.recipe.write_text(tree)
    for step, number in ((3, signal.SIGKILL), (4, signal.SIGTERM)):
        with mock.patch.dict(os.environ, OCTO_FAULT="rank=0,step=3,kind=slow,seconds=0.3,attempt=*"):
            processes = made.start(1)
        deadline = time.monotonic() + 60
        while not made.step(step).exists():
            assert processes[0].is_alive() and time.monotonic() < deadline, made.log.read_text()
            time.sleep(0.002)
        (processes[0].kill if number == signal.SIGKILL else processes[0].terminate)()
        codes = exit_codes(processes)
        assert codes == [-9] if number == signal.SIGKILL else codes == [75]
    made.train(1)
    return made


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    code = main(list(argv))
    return code, capsys.readouterr().out


def test_summary(run: TestRun, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, str(run.path), "--full")
    assert code == 0
    assert f"finished, step {STEPS:,} of {STEPS:,} (100.0%), step {STEPS} is saved" in text
    assert "2 layers of 32; 8 rows of 64 tokens per step" in text
    for name in ("loss", "gradient norm", "tokens/s", "row fill", "waiting for data", "validation loss"):
        assert f"\n  {name} " in text
    assert "2 restarts" in text
    lines = [line.split() for line in text.splitlines()]
    ends = {words[0]: words[-1] for words in lines if len(words) > 6 and words[0] in "123"}
    assert ends["1"] == "killed"
    assert f"{STEPS} checkpoints" in text and f"step {STEPS}: " in text and ", latest" in text


def test_nothing_of_a_run_is_markup(run: TestRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    with open(tmp_path / "run" / "validation.jsonl", "a") as file:
        file.write('{"step": 6, "name": "[/nope]", "loss": 1.0, "attempt": 3}\n')
    (tmp_path / "[").mkdir()
    assert main([str(tmp_path / "run"), "--report", str(tmp_path / "[/b].html")]) == 0
    assert "[/nope] loss" in capsys.readouterr().out


def test_attempts_have_their_steps_and_times(run: TestRun) -> None:
    view = load_run(run.path)
    assert [attempt.number for attempt in view.attempts] == [1, 2, 3]
    assert view.status == "finished" and view.owner is None and view.left_seconds is None
    assert view.curves.steps.tolist() == list(range(1, STEPS + 1))
    curve = {step: loss for step, loss, *_ in run.curve()}
    assert view.curves.columns["loss"].tolist() == [curve[step] for step in range(1, STEPS + 1)]
    assert view.validation["validation"][0].tolist() == [2, 4, 6]


class Page(HTMLParser):
    """Collects tags, and sees to it that each is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_holds_everything_and_fetches_nothing(
    run: TestRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "run.html"
    code, _ = said(capsys, str(run.path), "--report", str(target))
    assert code == 0
    text = target.read_text()
    page = Page(text)
    assert [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe")] == []
    assert [attrs for _, attrs in page.tags if {"src", "href", "xlink:href"} & set(attrs)] == []
    assert "http" not in text.replace("http-equiv", "") and "@import" not in text and "url(" not in text
    for title in (
        "loss",
        "gradient norm",
        "learning rate",
        "tokens/s",
        "row fill, %",
        "tokens",
        "recipe",
        "checkpoints",
    ):
        assert title in page.text
    assert "MFU" not in page.text and "GPU memory" not in page.text  # a CPU has none
    kinds = [attrs.get("class") for tag, attrs in page.tags]
    assert kinds.count("mark") >= 2 and "line s1" in kinds  # restarts; validation beside training
    assert sum(tag == "rect" for tag, _ in page.tags) == 3  # a bar an attempt
    assert len(list(tmp_path.iterdir())) == 1


def test_scores_are_a_curve_with_intervals(run: TestRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    odd = "<script>alert(1)</script>[/nope]\x1b[2J"
    for step, value in ((2, 10.0), (4, 30.0)):
        found = TaskScores({"1": Score(value, value - 5, value + 5)}, problems=5, samples=5)
        line = ScoreLine(step=step, attempt=3, kind="weights", time=1.0, seconds=1.0, tasks={"a-python": found})
        append_scores(tmp_path / "run", line)
        record = json.loads((tmp_path / "run/scores.jsonl").read_text().splitlines()[-1])
    record = {**record, "step": 6, "tasks": {odd: record["tasks"]["a-python"]}}
    with open(tmp_path / "run/scores.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n{}\n")
    code, text = said(capsys, str(tmp_path / "run"))
    assert code == 0 and "pass@1 of saved models [95 % interval]" in text
    assert "  step 4: a-python 30.0 % [25.0, 35.0] (5 problems, 5 samples)" in text
    assert "[/nope]" in text and "\x1b" not in text and "passed over: " in text
    target = tmp_path / "run.html"
    code, _ = said(capsys, str(tmp_path / "run"), "--report", str(target))
    page = Page(target.read_text())
    assert code == 0 and "script" not in [tag for tag, _ in page.tags]
    assert "pass@1, %, with 95 % interval" in page.text and "30.0 % [25.0, 35.0]" in page.text
    without = Page(render(load_run(run.path)))
    bands = [sum(attrs.get("class") == "band s0" for _, attrs in found.tags) for found in (page, without)]
    assert bands[0] == bands[1] + 1, "the interval is a band around the curve"
    assert "pass@1" not in without.text


def test_what_lives_is_seen(run: TestRun, tmp_path: Path) -> None:
    """A state that says "running" counts only if the lock is held and its owner is alive."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(run.path), str(copy)], check=True)
    state = json.loads((copy / "state.json").read_text())
    (copy / "state.json").write_text(json.dumps({**state, "status": "running", "step": 5}))
    assert load_run(copy).status == "dead"
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        me = Owner.me(3)
        started = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[19]
        lock = {**me.__dict__, "pid": sleeper.pid, "started": started}
        (copy / "lock").write_text(json.dumps(lock))
        view = load_run(copy)
        assert view.status == "running" and view.owner and view.owner.pid == sleeper.pid
        assert view.heartbeat is not None and view.heartbeat < 30
    finally:
        sleeper.communicate(b"\n")
    assert load_run(copy).status == "dead"


def test_a_changed_checkpoint_is_named(run: TestRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(run.path), str(copy)], check=True)
    victim = next((copy / "checkpoints" / "step-00000002").glob("weights*"))
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    assert said(capsys, str(copy))[0] == 0  # not looked at
    code, text = said(capsys, str(copy), "--full")
    assert code == 2 and f"bad: {victim.name} has changed since it was written" in text


def test_mistakes(run: TestRun, tmp_path: Path) -> None:
    with pytest.raises(OctoError, match="no run"):
        main([str(tmp_path)])
    with pytest.raises(OctoError, match="are for a run"):
        main([str(tmp_path / "data"), "--report", "x.html"])
    corpus = small_corpus(tmp_path)
    corpus.mkdir()  # named as the data set is
    assert main([str(corpus)]) == 0
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "recipe.yaml").write_text("train: 3\n")
    with pytest.raises(OctoError, match="broken recipe"):
        main([str(copy)])


def test_no_torch(run: TestRun) -> None:
    script = (
        "import sys; from megatron_octo.inspect import main\n"
        f"main([{str(run.path)!r}]); print([m for m in ('torch', 'megatron') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_long_curves_are_thinned_and_keep_their_peaks() -> None:
    x = np.arange(1_000_000.0)
    y = np.sin(x / 1e5)
    y[123_456], y[700_000], y[5] = 40.0, -30.0, np.nan
    thin_x, mean, low, high = charts.thin(x, y)
    assert len(thin_x) == len(mean) == charts.POINTS
    assert high.max() == 40.0 and low.min() == -30.0
    assert thin_x[np.argmax(high)] == pytest.approx(123_456, abs=1_000_000 / charts.POINTS)
    assert np.abs(mean - np.sin(thin_x / 1e5)).max() < 0.03
    svg = charts.line_chart([charts.Series("a", x, y)], [charts.Mark(10.0, "a < b & c")])
    assert len(svg) < 40_000 and "a &lt; b &amp; c" in svg
    assert charts.line_chart([charts.Series("a", x[:3], np.full(3, np.nan))]) == ""
    assert "<circle" in charts.line_chart([charts.Series("a", x[:1], y[:1])])


@pytest.mark.parametrize(
    "low,high,expected",
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (3.1, 9.7, [4, 6, 8]),
        (-5e-4, 5e-4, None),
        (1e9, 2.05e9, None),
    ],
)
def test_ticks(low: float, high: float, expected: list[float] | None) -> None:
    found = charts.ticks(low, high)
    assert 3 <= len(found) <= 7 and low - 1e-9 <= min(found) and max(found) <= high * 1.000001
    if expected is not None:
        assert found == pytest.approx(expected)


def test_a_run_without_steps_has_a_page(run: TestRun, tmp_path: Path) -> None:
    """Just begun: a recipe and nothing more."""
    (tmp_path / "recipe.yaml").write_text((run.path / "recipe.yaml").read_text())
    view = load_run(tmp_path)
    assert view.step == 0
    Page(render(view))
