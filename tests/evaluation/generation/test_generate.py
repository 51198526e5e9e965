"""The command on a tiny model: whole flows, refusals, and processes killed at random moments."""

import json
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluate import main
from megatron_octo.evaluation import records
from megatron_octo.evaluation.benchmark.rows import read_rows
from megatron_octo.evaluation.generation.generate import Options, Wanted, Work, ended_by, produce
from megatron_octo.evaluation.records import Sample
from tests.evaluation.generation.tiny import write_model
from tests.evaluation.small import write_benchmark
from tests.places import PROJECT

FIX, DESCRIBE, BACK = (f"humaneval{name}-python" for name in ("fixtests", "explaindescribe", "explainsynthesize"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_model(folder / "model", "gpt_bigcode")
    write_benchmark(folder / "data")
    return folder


def command(place: Path, output: Path, *more: str, tasks: str = FIX) -> list[str]:
    options = {
        "--model": place / "model",
        "--data": place / "data",
        "--tasks": tasks,
        "--output": output,
        "--prompt": "octocoder",
        "--n-samples": 3,
        "--temperature": 0.8,
        "--top-p": 0.95,
        "--max-length": 330,
        "--device": "cpu",
    }
    return ["generate", *(str(word) for pair in options.items() for word in pair), *more]


def lines(output: Path) -> dict[str, list[str]]:
    return {path.name: sorted(path.read_text().splitlines()) for path in sorted((output / "samples").iterdir())}


def samples(output: Path, task: str = FIX) -> dict[tuple[int, int], Sample]:
    return records.read_samples(output, task)


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    assert main(command(place, place / "whole")) == 0
    return place / "whole"


@pytest.mark.slow
def test_batch_and_seed(place: Path, whole: Path, tmp_path: Path) -> None:
    assert sorted(samples(whole)) == [(problem, number) for problem in range(3) for number in range(3)]
    assert main(command(place, tmp_path / "one", "--batch-size", "1")) == 0
    assert lines(tmp_path / "one") == lines(whole)
    assert main(command(place, tmp_path / "other", "--seed", "1")) == 0
    assert lines(tmp_path / "other") != lines(whole)


@pytest.mark.slow
def test_what_is_there_is_not_made_again(place: Path, whole: Path, tmp_path: Path) -> None:
    assert main(command(place, tmp_path / "a")) == 0
    path = records.samples_path(tmp_path / "a", FIX)
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:4]) + kept[4][:20])  # as a kill leaves it
    assert main(command(place, tmp_path / "a", "--batch-size", "2")) == 0
    assert path.read_bytes().startswith(b"".join(kept[:4]))
    assert lines(tmp_path / "a") == lines(whole)
    before = path.read_bytes()
    assert main(command(place, tmp_path / "a")) == 0 and path.read_bytes() == before


def test_parts_are_the_whole(place: Path, whole: Path, tmp_path: Path) -> None:
    for number in range(2):
        assert main(command(place, tmp_path / f"{number}", "--part", f"{number}/2")) == 0
    assert main(["merge", str(tmp_path / "0"), str(tmp_path / "1"), "--output", str(tmp_path / "all")]) == 0
    assert lines(tmp_path / "all") == lines(whole)
    assert {problem for problem, _ in samples(tmp_path / "0")} == {0, 2}


def test_other_options_are_refused(place: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(OctoError, match=r"temperature: 0\.8 there, 0\.2 now"):
        main(command(place, whole, "--temperature", "0.2"))
    with pytest.raises(OctoError, match="--top-p from above 0 to 1"):
        main(command(place, tmp_path, "--top-p", "0"))
    with pytest.raises(OctoError, match="unknown prompt"):
        main(command(place, tmp_path, "--prompt", "octocode"))


@pytest.mark.slow
def test_descriptions_come_before_what_is_made_of_them(place: Path, tmp_path: Path) -> None:
    assert main(command(place, tmp_path, tasks=f"{BACK},{DESCRIBE}")) == 0
    assert len(samples(tmp_path, DESCRIBE)) == len(samples(tmp_path, BACK)) == 9
    assert len({sample.prompt_digest for sample in samples(tmp_path, DESCRIBE).values()}) == 3
    assert len({sample.prompt_digest for sample in samples(tmp_path, BACK).values()}) == 9  # each its own description
    with pytest.raises(OctoError):
        main(command(place, tmp_path / "without", tasks=BACK))


def test_a_prompt_that_fills_the_length_gets_an_empty_answer(place: Path, tmp_path: Path) -> None:
    assert main(command(place, tmp_path, "--max-length", "20")) == 0
    assert {(sample.text, sample.tokens, sample.stop) for sample in samples(tmp_path).values()} == {("", 0, "length")}


def test_why_an_answer_may_stop(place: Path) -> None:
    rows = {"python": read_rows(place / "data", "python")}
    ended = ended_by(rows, ["<END>"])
    assert ended((FIX, 0, 0), "    return 1 <EN") is None
    assert ended((FIX, 0, 0), "    return 1 <END> 2") == "stop word"
    assert ended((FIX, 0, 0), "\n    return 2 * x\n") is None
    assert ended((FIX, 0, 0), "\n    return 2 * x\n\nprint(doubled(1))\n") == "syntax"
    assert ended((DESCRIBE, 0, 0), "\n    return 2 * x\n\nprint(doubled(1))\n") is None


@pytest.mark.slow
def test_two_processes_make_what_one_makes(place: Path, whole: Path, tmp_path: Path) -> None:
    from megatron_octo.evaluation.benchmark.prompts import load_prompt
    from megatron_octo.evaluation.benchmark.tasks import task_named

    rows, prompt, task = {"python": read_rows(place / "data", "python")}, load_prompt("octocoder"), task_named(FIX)
    wanted = [
        Wanted((FIX, row.number, number), prompt.text(task, row)) for row in rows["python"] for number in range(3)
    ]
    options = Options("octocoder", 3, 0.8, 0.95, 330)
    produce(tmp_path, wanted, Work(place / "model", prompt.stop, rows, options, 5), ["cpu", "cpu"])
    assert lines(tmp_path) == lines(whole)


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(place: Path, whole: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    path = records.samples_path(tmp_path, FIX)
    argv = [sys.executable, "-c", KILLED, *command(place, tmp_path, "--batch-size", "2")]
    for wanted in (1, 3, 5):
        run = partial(subprocess.Popen, argv, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        with run() as process:
            assert process.stdout is not None
            for line in process.stdout:  # one per token that was chosen
                if path.exists() and path.read_bytes().count(b"\n") >= wanted and generator.random() < 0.2:
                    process.send_signal(signal.SIGKILL)
                    break
                assert line == "step\n"
        assert process.returncode in (-signal.SIGKILL, 0)
        keys = [(found["problem"], found["sample"]) for found in map(json.loads, path.read_text().splitlines()[:-1])]
        assert len(keys) == len(set(keys))
    assert main(command(place, tmp_path)) == 0
    assert lines(tmp_path) == lines(whole)


# Reports each step, so that a kill follows events and not the time.
KILLED = """
import sys
from megatron_octo.evaluate import main
from megatron_octo.evaluation.generation.engine import Engine
step = Engine._step
def told(self, batch):
    print("step", flush=True)
    step(self, batch)
Engine._step = told
main(sys.argv[1:])
"""
