"""Tests of the cache of verdicts."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.sandbox.limits import Limits
from megatron_octo.evaluation.scoring.cache import VerdictCache

_WRITER = """
import sys
from pathlib import Path
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.scoring.cache import VerdictCache
cache = VerdictCache(Path(sys.argv[1]))
for number in range(100):
    cache.put(f"{sys.argv[2]}.{number % 60}", Verdict(Kind.PASSED, 2, f"{number % 60}"))
"""


def test_verdicts_come_back_marked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "verdicts.sqlite"
    cache, verdict = VerdictCache(path), Verdict(Kind.WRONG, 2, "1 != 2\n\u2028", 0.5, 0.25, 3.0)
    assert cache.get("a") is None
    cache.put("a", verdict)
    cache.close()
    found = VerdictCache(path).get("a")
    assert found == Verdict(Kind.WRONG, 2, "1 != 2\n\u2028", 0.5, 0.25, 3.0, cached=True)


@pytest.mark.parametrize("kind", [Kind.INFRASTRUCTURE, Kind.WALL_LIMIT])
def test_what_a_busy_machine_may_have_caused_is_not_kept(tmp_path: Path, kind: Kind) -> None:
    cache = VerdictCache(tmp_path / "verdicts.sqlite")
    cache.put("a", Verdict(kind, 1))
    assert cache.get("a") is None


def test_the_key_holds_program_toolchain_and_limits() -> None:
    keys = [
        VerdictCache.key("p", "t", Limits()),
        VerdictCache.key("q", "t", Limits()),
        VerdictCache.key("p", "u", Limits()),
        VerdictCache.key("p", "t", Limits(cpu_s=6)),
        VerdictCache.key("p", "t", Limits(memory_bytes=1 << 29)),
    ]
    assert len(set(keys)) == len(keys) and keys[0] == VerdictCache.key("p", "t", Limits())


@pytest.mark.slow
def test_threads_and_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.sqlite"
    processes = [subprocess.Popen([sys.executable, "-c", _WRITER, str(path), str(name)]) for name in range(2)]
    cache = VerdictCache(path)

    def write(name: int) -> None:
        for number in range(50):
            cache.put(f"thread{name}.{number}", Verdict(Kind.PASSED, 2))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0, 0]
    assert all(cache.get(f"thread{name}.{number}") for name in range(4) for number in range(50))
    for name in range(2):
        found = [cache.get(f"{name}.{number}") for number in range(60)]
        assert [each.detail for each in found if each] == [str(number) for number in range(60)]


def test_without_a_file_nothing_is_remembered() -> None:
    cache = VerdictCache(None)
    cache.put("a", Verdict(Kind.PASSED, 2))
    assert cache.get("a") is None
    cache.close()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.sqlite"
    path.write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(OctoError, match="cache of verdicts fails") as caught:
        VerdictCache(path)
    assert caught.value.where == path
