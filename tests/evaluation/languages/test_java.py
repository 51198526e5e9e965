"""Java: kinds of verdicts, and programs that try to pass without solving their problem."""

import dataclasses
import os
from collections.abc import Iterator

import pytest

from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.languages import language
from megatron_octo.evaluation.languages.base import Language
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.sandbox.box import Sandbox
from megatron_octo.evaluation.sandbox.levels import Level, Number, probe_level
from megatron_octo.evaluation.sandbox.limits import Limits
from megatron_octo.evaluation.sandbox.supervisor import cache_root
from tests.evaluation.languages.forgeries.java import FORGERIES
from tests.evaluation.sandbox.as_user import as_user

HEAD = "import java.util.*;\nclass Solution {\n    public int twice(int x) {\n"
TEST = """public class Main {
    public static void main(String[] args) {
        Solution s = new Solution();
        List<Boolean> correct = Arrays.asList(s.twice(2) == 4, s.twice(0) == 0);
        if (correct.contains(false)) {
            throw new AssertionError();
        }
    }
}
"""
_EMPTY = dict.fromkeys([field.name for field in dataclasses.fields(Row)], "")
ROW = Row(**{**_EMPTY, "language": "java", "number": 0, "declaration": HEAD, "test": TEST})
RIGHT = HEAD + "        return 2 * x;\n    }\n}\n"
KINDS = {
    HEAD + "        return 2 + x;\n    }\n}\n": Kind.WRONG,
    HEAD + "        return 2 * ;\n    }\n}\n": Kind.COMPILE_ERROR,
    HEAD + "        return new int[1][x];\n    }\n}\n": Kind.COMPILE_ERROR,
    HEAD + "        throw new IllegalStateException();\n    }\n}\n": Kind.EXCEPTION,
    HEAD + "        while (true) {}\n    }\n}\n": Kind.CPU_LIMIT,
    HEAD + "        long[] a = new long[1 << 30];\n        return a.length;\n    }\n}\n": Kind.MEMORY,
    HEAD
    + '        while (true) System.out.println("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");\n    }\n}\n': Kind.OUTPUT_LIMIT,
    HEAD + "        System.exit(0);\n        return 0;\n    }\n}\n": Kind.TAMPERED,
}
LIMITS = Limits(cpu_s=3.0, wall_s=60.0)


@pytest.fixture(scope="module")
def java() -> Iterator[Language]:
    found = language("java", cache_root())
    if not found.toolchain().found or probe_level().number < Number.NAMESPACES:
        pytest.skip("no sandbox or no JDK")
    yield found
    found.close()


def judge(java: Language, code: str, level: Level | None = None) -> Verdict:
    with Sandbox(level or probe_level(), slot=9) as box:
        return java.judge(java.program(ROW, code), box, LIMITS)


@pytest.mark.slow
def test_kinds(java: Language) -> None:
    assert judge(java, RIGHT).kind == Kind.PASSED
    found = {code: judge(java, code) for code in KINDS}
    assert {code: (each.kind, each.detail) for code, each in found.items() if each.kind != KINDS[code]} == {}


@pytest.mark.slow
def test_no_forgery_passes(java: Language) -> None:
    found = {what: judge(java, code).kind for what, code in FORGERIES.items()}
    assert {what: kind for what, kind in found.items() if kind in (Kind.PASSED, Kind.INFRASTRUCTURE)} == {}
    assert judge(java, RIGHT).kind == Kind.PASSED


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="the test above runs as an ordinary user")
def test_no_forgery_passes_when_an_ordinary_user_judges(java: Language) -> None:
    level, cache = Level(Number.NAMESPACES), cache_root()

    def attack() -> dict[str, str]:
        own = language("java", cache)
        found = {what: str(judge(own, code, level).kind) for what, code in {"right": RIGHT, **FORGERIES}.items()}
        own.close()
        return found

    found = as_user(attack)
    assert found.pop("right") == Kind.PASSED
    assert {what: kind for what, kind in found.items() if kind in (Kind.PASSED, Kind.INFRASTRUCTURE)} == {}
