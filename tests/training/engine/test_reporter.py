"""Log lines: means over their interval, what matters first; a start is short."""

import math
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.runs import TestRun, small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.slow
def test_a_line_shows_means_over_its_interval(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, log={"interval": 4}, checkpoint={"interval": 0})
    text = run.train(2)
    shown = re.findall(r"^step (\d)/6 \| loss ([\d.]+) \| ETA (\S+) \| ([\d,]+) tokens/s", text, re.M)
    assert [line[0] for line in shown] == ["4", "6"]
    for (_, loss, _, speed), records in zip(shown, (run.metrics()[:4], run.metrics()[4:]), strict=True):
        assert float(loss) == pytest.approx(sum(r["loss"] for r in records) / len(records), abs=1e-4)
        seconds = sum(record["step_s"] for record in records)
        assert int(speed.replace(",", "")) == pytest.approx(len(records) * 8 * 64 / seconds, abs=1)
        assert not math.isclose(float(loss), records[-1]["loss"], abs_tol=1e-4)


@pytest.mark.slow
def test_a_start_is_short_and_says_what_is_not_the_default(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 2, "keep": 9}, train={"steps": 3})
    run.train(2, "schedule.decay_steps=6")
    run.log.unlink()
    text = run.train(2, "train.steps=4", "optimizer.lr=2.0e-3", "system.timeout_minutes=90.0")
    start = text[: text.index("step 4/4")].splitlines()
    assert len(start) <= 25
    assert "4 steps of 512 tokens, 2,048 in all" in start[0] and "data 2)" in start[0]
    assert "  checkpoint: interval 2, keep 9" in start
    assert any(line.startswith("  system: ") and "timeout_minutes 1 h 30 min" in line for line in start)
    assert "keep_every" not in text
    assert (
        "changed: optimizer.lr: 0.001 -> 0.002 (the learning rate follows the new curve from the next step on)" in start
    )
    assert any(line.startswith("changed: train.steps: 3 -> 4 (training ends there") for line in start)


@pytest.mark.slow
def test_step_loss_and_eta_are_seen_on_80_columns(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 0}, train={"steps": 40})
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "megatron_octo.train", str(run.recipe)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 4096):
            shown += chunk
    except OSError:  # the terminal closes with the process
        pass
    assert process.wait() == 0, shown.decode()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n").splitlines()
    bars = [line for line in lines if line.startswith("step ") and "loss" in line]
    assert bars and all(len(line) <= 80 for line in bars)
    assert all(re.search(r"step \d+/40 \| loss \d\.\d{4} \| ETA [\d:?]+ \| ", line) for line in bars), bars[-1]
