"""The same run twice is the same to the last bit."""

from pathlib import Path

import pytest

from tests.training.runs import STEPS, TestRun, small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.slow
def test_run_to_run(tmp_path: Path, corpus: Path) -> None:
    """bf16, dropout, tensor and sequence parallelism."""
    sections = {
        "model": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
        "train": {"precision": "bf16"},
        "parallel": {"tensor": 2, "sequence": True},
        "system": {"deterministic": True},
        "checkpoint": {"interval": STEPS},
    }
    runs = [TestRun(tmp_path, corpus, name, **sections) for name in ("one", "two")]
    for run in runs:
        run.train(2)
    assert runs[0].curve() == runs[1].curve()
    assert runs[0].content(STEPS) == runs[1].content(STEPS)
