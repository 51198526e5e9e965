"""What tests of scoring share: the small benchmark, and judges in real sandboxes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from megatron_octo.evaluation.sandbox.levels import Number, probe_level
from megatron_octo.evaluation.sandbox.limits import Limits
from megatron_octo.evaluation.sandbox.supervisor import cache_root
from megatron_octo.evaluation.scoring.cache import VerdictCache
from megatron_octo.evaluation.scoring.judge import Judge
from tests.evaluation.small import write_benchmark

MakeJudge = Callable[..., Judge]


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark(tmp_path_factory.mktemp("data"))


@pytest.fixture
def make_judge() -> Iterator[MakeJudge]:
    """Return a maker of judges without a cache of verdicts, unless one is given."""
    level = probe_level()
    if level.number < Number.NAMESPACES:
        pytest.skip(f"no sandbox on this machine: {'; '.join(level.missing)}")
    with ExitStack() as stack:

        def make(verdicts: VerdictCache | None = None, *, compat: bool = False) -> Judge:
            judge = Judge(level, cache_root(), verdicts, Limits(cpu_s=2), 2, compat=compat)
            return stack.enter_context(judge)

        yield make
