from pathlib import Path

import pytest

from megatron_octo.evaluation.languages import compiled, cpp
from megatron_octo.evaluation.languages.cpp import Cpp
from megatron_octo.evaluation.records import Kind
from megatron_octo.evaluation.sandbox.limits import Limits
from tests.evaluation.languages.compiled_rows import RIGHT, judge, judge_of, row

# Each instantiates two others, which no other one shares.
EXPLOSION = (
    RIGHT["cpp"]
    + "template <int N, int M> struct F { enum { v = F<N - 1, 2 * M>::v + F<N - 1, 2 * M + 1>::v }; };\n"
    + "template <int M> struct F<0, M> { enum { v = 1 }; };\nint x = F<22, 0>::v;\n"
)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpp, "_GXX", str(tmp_path / "g++"))
    monkeypatch.setenv("PATH", str(tmp_path))
    toolchain = Cpp(tmp_path / "cache").toolchain()
    assert (toolchain.found, toolchain.missing) == (False, ("apt: g++",))
    assert not (tmp_path / "cache").exists()


def test_a_missing_header_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpp, "_HEADERS", {"vector": "apt: never", "octo/none.h": "apt: libnone-dev"})
    assert Cpp(tmp_path).toolchain().missing == ("apt: libnone-dev",)


def test_openssl_is_linked_only_where_it_is_named() -> None:
    judging = judge_of("cpp")
    if not judging.toolchain().found:
        pytest.skip("no toolchain for cpp")
    plain = judging.compiler(judging.program(row("cpp"), RIGHT["cpp"])).argv
    hashes = judging.compiler(judging.program(row("cpp"), f"#include<openssl/md5.h>\n{RIGHT['cpp']}")).argv
    assert "-lcrypto" not in plain
    assert "-lcrypto" in hashes


@pytest.mark.slow
def test_a_compilation_has_limits_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    if not judge_of("cpp").toolchain().found:
        pytest.skip("no toolchain for cpp")
    monkeypatch.setattr(compiled, "COMPILATION", Limits(cpu_s=1, memory_bytes=2 << 30))
    verdict = judge("cpp", EXPLOSION)
    assert verdict.kind == Kind.CPU_LIMIT
    assert "compiling" in verdict.detail
    assert verdict.run_cpu_s == 0
    monkeypatch.setattr(compiled, "COMPILATION", Limits(cpu_s=20, memory_bytes=100 << 20))
    assert judge("cpp", EXPLOSION).kind == Kind.MEMORY
