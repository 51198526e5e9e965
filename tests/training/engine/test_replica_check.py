"""Copies of weights that drift apart are found before they are saved."""

from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_octo.runfiles.attempts import read_attempts, read_errors
from megatron_octo.training.engine.replica_check import _coefficients, digest
from tests.training.runs import TestRun, exit_codes, small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


NORM = "decoder.final_layernorm.bias over the"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "parallel", "interval", "found", "said"),
    [
        # The distributed optimizer heals a replica at the next update, whatever its gradients did until then.
        (3, {}, 1, 3, f"{NORM} data ranks: rank 1 differs"),
        # Nothing heals these. They are found before the next checkpoint is written.
        (2, {"tensor": 2}, 100, 4, f"{NORM} tensor ranks: ranks 0, 1 differ"),
        (2, {"pipeline": 2}, 100, 4, "word_embeddings.weight over the embedding ranks: ranks 0, 1 differ"),
    ],
    ids=["dp3", "tp2", "pp2"],
)
def test_weights_that_drift(
    tmp_path: Path,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    world: int,
    parallel: dict[str, Any],
    interval: int,
    found: int,
    said: str,
) -> None:
    sections = {
        "parallel": parallel,
        "batch": {"global_size": 6, "micro_size": 1},
        "checkpoint": {"interval": 2, "keep": 9, "asynchronous": False},
        "guard": {"replica_interval": interval},
    }
    run = TestRun(tmp_path, corpus, **sections)
    monkeypatch.setenv("OCTO_FAULT", "rank=1,step=3,kind=drift")
    assert exit_codes(run.start(world)) == [76] * world
    monkeypatch.delenv("OCTO_FAULT")
    text = run.log.read_text()
    assert text.count(f"error: step {found}: copies of parameters are not equal: ") == 1
    assert said in text
    assert run.names() == ["latest", "step-00000002"]
    attempt = read_attempts(run.path)[0]
    assert (attempt.reason, attempt.exit_code, attempt.saved_step) == ("replicas differ", 76, 2)
    guilty = {1} if world == 3 else set(range(world))
    assert set(attempt.culprits) == guilty
    assert {record.rank: record.culprit for record in read_errors(run.path)} == {
        rank: rank in guilty for rank in range(world)
    }
    whole = TestRun(tmp_path, corpus, "whole", **sections)
    whole.train(world)
    run.train(world)
    assert run.content(6) == whole.content(6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_digests(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    tensor = torch.randn(50_000, generator=generator).to(dtype)
    coefficients = _coefficients(4096, tensor.device)  # more than one chunk
    before = int(digest(tensor, coefficients))
    assert int(digest(tensor.clone().view(100, 500), coefficients)) == before
    bits = tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()])
    seen = {before}
    for place in (0, 1, 4095, 4096, 49_999):
        bits[place] ^= 1
        seen.add(int(digest(tensor, coefficients)))
        bits[place] ^= 1
    # Errors that cancel in a sum, elements that change places, the sign of zero.
    bits[7] += 1
    bits[8] -= 1
    seen.add(int(digest(tensor, coefficients)))
    bits[7] -= 1
    bits[8] += 1
    assert int(digest(tensor, coefficients)) == before
    tensor[[3, 9]] = tensor[[9, 3]]
    seen.add(int(digest(tensor, coefficients)))
    tensor[20] = 0.0
    seen.add(int(digest(tensor, coefficients)))
    tensor[20] = -0.0
    seen.add(int(digest(tensor, coefficients)))
    assert len(seen) == 10
    values = _coefficients(1 << 16, tensor.device)
    assert len(values.unique()) == 1 << 16
    assert abs(float((values & 1).float().mean()) - 0.5) < 0.01
