"""``evaluate``: its commands, their exit codes and what they write, with real sandboxes and answers of our own."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_octo import evaluate
from megatron_octo.common.errors import REQUEUE, OctoError
from megatron_octo.evaluation import records
from megatron_octo.evaluation.sandbox.levels import Number, probe_level
from megatron_octo.evaluation.scoring import judge
from tests.evaluation.benchmark.examples import needs_rows
from tests.evaluation.small import canonical, write_benchmark, write_samples
from tests.places import SHARED

needs_sandbox = pytest.mark.skipif(probe_level().number < Number.NAMESPACES, reason="no sandbox on this machine")
_COMMANDS = ("run", "generate", "score", "merge", "report", "doctor", "prepare", "watch")
_TASKS = "humanevalsynthesize-python"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark(tmp_path_factory.mktemp("data"))


def _score(output: Path, data: Path, *more: str) -> int:
    words = ["score", "--output", str(output), "--data", str(data), "--tasks", _TASKS, "--no-verdict-cache", *more]
    return evaluate.main(words)


def test_every_option_is_described_and_no_help_imports_torch() -> None:
    script = (
        "import sys\nfrom megatron_octo.evaluate import build_parser\n"
        "parser = build_parser()\n"
        "names = parser._subparsers._group_actions[0].choices\n"
        "assert all(action.help for each in names.values() for action in each._actions if action.option_strings)\n"
        "for each in names.values(): each.format_help()\n"
        "print(sorted(names), 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == f"{sorted(_COMMANDS)} False False"


@pytest.mark.parametrize("words", [[], ["sing"], ["score", "--limits"], ["score", "--limit", "0"], ["report"]])
def test_a_wrong_command_line_exits_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate.main(words)
    assert stop.value.code == 2


def test_octo_evaluate_is_the_same_command() -> None:
    command = [sys.executable, "-m", "megatron_octo.cli", "evaluate", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(name in found.stdout for name in _COMMANDS)


@needs_sandbox
def test_a_model_that_answers_rightly_scores_100(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_samples(tmp_path / "e", data, canonical, {"synthesize": 2})
    assert _score(tmp_path / "e", data) == 0
    assert evaluate.main(["report", str(tmp_path / "e"), "--data", str(data)]) == 0
    assert f"{_TASKS}: pass@1 100.0 % (" in capsys.readouterr().out
    scores = json.loads((tmp_path / "e" / records.SCORES).read_text())
    assert scores["tasks"][_TASKS]["pass@1"]["value"] == 100.0
    assert (tmp_path / "e" / records.REPORT).exists() and (tmp_path / "e" / records.PAGE).exists()


@pytest.mark.slow
@needs_sandbox
def test_two_evaluations_are_compared_and_prompts_are_shown(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_samples(tmp_path / "bad", data, lambda row, number: "\n" + row.buggy_solution, {"synthesize": 1})
    write_samples(tmp_path / "good", data, canonical, {"synthesize": 1})
    assert [_score(tmp_path / name, data) for name in ("bad", "good")] == [0, 0]
    assert evaluate.main(["report", str(tmp_path / "bad"), str(tmp_path / "good"), "--data", str(data)]) == 0
    assert f"{_TASKS}: +100.0 (+100.0 to +100.0), second minus first" in capsys.readouterr().out
    page = (tmp_path / "bad" / records.PAGE).read_text()
    assert "Question: Write a function doubled." in page and "return 3 * x" in page


@pytest.mark.slow
@needs_sandbox
def test_parts_of_two_machines_are_merged(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [str(tmp_path / name) for name in ("a", "b")]
    for part in parts:
        write_samples(Path(part), data, canonical, {"synthesize": 1})
        _score(Path(part), data)
    command = ["merge", *parts, "--output", str(tmp_path / "all"), "--expect"]
    assert evaluate.main([*command, "3"]) == 0
    assert f"{_TASKS}: 3 samples, 3 verdicts" in capsys.readouterr().out
    with pytest.raises(OctoError, match=r"problems without samples: .*: 3, 4"):
        evaluate.main([*command, "5"])


@needs_sandbox
def test_known_solutions_are_scored_and_faults_exit_with_1(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", "--data", str(data), "--tasks", "*-python", "--limit", "2", "--solutions"]
    assert evaluate.main([*words, "canonical"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "canonical 4/4"
    assert evaluate.main([*words, "buggy", "--base", "prompt"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "buggy 0/2"
    broken = write_benchmark(tmp_path / "broken")
    rows = broken / "humanevalpack_python.jsonl"
    rows.write_text(rows.read_text().replace("return 2 * x", "return 3 * x"))
    assert evaluate.main(["score", "--data", str(broken), "--tasks", "*-python", "--solutions", "canonical"]) == 1


@needs_sandbox
def test_a_language_that_judges_wrongly_is_not_scored(tmp_path: Path, data: Path) -> None:
    broken = write_benchmark(tmp_path / "broken")
    rows = broken / "humanevalpack_python.jsonl"
    rows.write_text(rows.read_text().replace("return 2 * x", "return 3 * x"))
    write_samples(tmp_path / "e", broken, canonical, {"synthesize": 1})
    with pytest.raises(OctoError, match="python is not scored"):
        _score(tmp_path / "e", broken)
    assert not list((tmp_path / "e").glob("verdicts/*"))


def test_an_interrupted_command_asks_to_be_started_again(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(judge.Judge, "toolchain", interrupted)
    write_samples(tmp_path / "e", data, canonical, {"synthesize": 1})
    assert _score(tmp_path / "e", data, "--unsafe") == REQUEUE
    assert "the same command goes on" in capsys.readouterr().err


@needs_sandbox
@pytest.mark.slow
def test_a_job_that_the_scheduler_stops_keeps_what_is_done(tmp_path: Path, data: Path) -> None:
    write_samples(
        tmp_path, data, lambda row, number: f"\n    import time; time.sleep(0.3)  # {number}\n", {"synthesize": 30}
    )
    words = ["score", "--output", str(tmp_path), "--data", str(data), "--tasks", _TASKS, "--no-verdict-cache"]
    process = subprocess.Popen(
        [sys.executable, "-m", "megatron_octo.evaluate", *words], stderr=subprocess.PIPE, text=True
    )
    path = records.verdicts_path(tmp_path, _TASKS)
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") > 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate()
    assert process.returncode == REQUEUE and "the same command goes on" in told
    assert 2 < len(records.read_verdicts(tmp_path, _TASKS)) < 90


def test_nothing_to_score_is_said(tmp_path: Path, data: Path) -> None:
    with pytest.raises(OctoError, match="--output or --solutions"):
        evaluate.main(["score", "--data", str(data)])
    with pytest.raises(OctoError, match="no samples"):
        _score(tmp_path, data)
    with pytest.raises(OctoError, match="two evaluations at most"):
        evaluate.main(["report", "a", "b", "c"])


@needs_rows
@needs_sandbox
@pytest.mark.slow
def test_published_rows_end_as_they_should(capsys: pytest.CaptureFixture[str]) -> None:
    """The first problems of six languages: right solutions pass, wrong and missing ones do not."""
    words = ["score", "--data", str(SHARED), "--limit", "3", "--solutions"]
    assert [evaluate.main([*words, which]) for which in ("canonical", "buggy", "empty")] == [0, 0, 0]
    last = [line for line in capsys.readouterr().out.splitlines() if line.count(" ") == 1]
    assert last == ["canonical 36/36", "buggy 0/36", "empty 0/36"]
