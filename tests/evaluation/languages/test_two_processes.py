"""Verdicts that a program cannot forge: Python and JavaScript."""

import dataclasses
import importlib
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
from tests.evaluation.sandbox.as_user import as_user

_EMPTY = dict.fromkeys([field.name for field in dataclasses.fields(Row)], "")
ROWS = {
    "python": Row(
        **{
            **_EMPTY,
            "language": "python",
            "number": 0,
            "declaration": "def one() -> int:\n    return 1\n\n\ndef double(x: int) -> int:\n",
            "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(one()) == 2\n"
            "    numbers = [1]\n    candidate(numbers)\n\ncheck(double)\n",
        }
    ),
    "js": Row(
        **{
            **_EMPTY,
            "language": "js",
            "number": 0,
            "declaration": "const one = () => 1\n\nconst double = (x) => {\n",
            "test": "const testDouble = () => {\n  console.assert(double(2) === 4)\n  console.assert(double(one()) === 2)\n}\n"
            "\ntestDouble()\n",
        }
    ),
}
RIGHT = {"python": "def double(x):\n    return 2 * x\n", "js": "const double = (x) => {\n  return 2 * x;\n}\n"}
# Text and the kind that it ends as.
KINDS = {
    "python": {
        "def double(x):\n    return 2 + x\n": Kind.WRONG,
        "def double(x):\n    return 2 *\n": Kind.COMPILE_ERROR,
        "def double(x):\n    return y\n": Kind.EXCEPTION,
        "raise ValueError('at once')\n": Kind.EXCEPTION,
        "def twice(x):\n    return 2 * x\n": Kind.EXCEPTION,
        "def double(x):\n    while True: pass\n": Kind.CPU_LIMIT,
        "def double(x):\n    import time; time.sleep(99)\n": Kind.WALL_LIMIT,
        "def double(x):\n    return [0] * (1 << 32)\n": Kind.MEMORY,
        "def double(x):\n    print('x' * 10 ** 6)\n    return 2 * x\n": Kind.PASSED,
        "def double(x):\n    import os; os._exit(3)\n": Kind.EXCEPTION,
        "def double(x):\n    import os; os._exit(0)\n": Kind.TAMPERED,
    },
    "js": {
        "const double = (x) => {\n  return 2 + x;\n}\n": Kind.WRONG,
        "const double = (x) => {\n  return 2 * ;\n}\n": Kind.COMPILE_ERROR,
        "const double = (x) => {\n  return y;\n}\n": Kind.EXCEPTION,
        "throw new Error('at once');\n": Kind.EXCEPTION,
        "const double = (x) => {\n  while (true) {}\n}\n": Kind.CPU_LIMIT,
        "const double = (x) => {\n  console.log(x);\n  return 2 * x;\n}\n": Kind.PASSED,
        "const double = (x) => {\n  process.exit(3);\n}\n": Kind.EXCEPTION,
        "const double = (x) => {\n  process.exit(0);\n}\n": Kind.TAMPERED,
    },
}
LIMITS = Limits(cpu_s=1.0, wall_s=20.0)


@pytest.fixture(params=ROWS, scope="module")
def spoken(request: pytest.FixtureRequest) -> Iterator[Language]:
    found = language(request.param, cache_root())
    if not found.toolchain().found or probe_level().number < Number.NAMESPACES:
        pytest.skip("no sandbox or no interpreter")
    yield found
    found.close()


def judge(spoken: Language, code: str, level: Level | None = None, limits: Limits = LIMITS) -> Verdict:
    with Sandbox(level or probe_level(), slot=8) as box:
        return spoken.judge(spoken.program(ROWS[spoken.name], code), box, limits)


def test_a_right_solution_passes(spoken: Language) -> None:
    verdict = judge(spoken, RIGHT[spoken.name])
    assert (verdict.kind, verdict.level) == (Kind.PASSED, 2)
    assert verdict.run_cpu_s > 0


@pytest.mark.slow
def test_kinds(spoken: Language) -> None:
    limits = {Kind.WALL_LIMIT: Limits(wall_s=2.0)}
    found = {code: judge(spoken, code, limits=limits.get(kind, LIMITS)) for code, kind in KINDS[spoken.name].items()}
    assert {
        code: (verdict.kind, verdict.detail)
        for code, verdict in found.items()
        if verdict.kind != KINDS[spoken.name][code]
    } == {}
    assert judge(spoken, RIGHT[spoken.name]).kind == Kind.PASSED  # the tester is as it was


@pytest.mark.slow
@pytest.mark.parametrize("user", ["whoever runs this", "an ordinary user"])
def test_no_forgery_passes(spoken: Language, user: str) -> None:
    forgeries: dict[str, str] = importlib.import_module(f"tests.evaluation.languages.forgeries.{spoken.name}").FORGERIES
    level = probe_level() if user.startswith("whoever") else Level(Number.NAMESPACES)

    cache = cache_root()

    def attack() -> dict[str, str]:
        own = language(spoken.name, cache)
        own.toolchain()
        found = {what: str(judge(own, code, level).kind) for what, code in forgeries.items()}
        assert judge(own, RIGHT[spoken.name], level).kind == Kind.PASSED
        own.close()
        return found

    if user == "an ordinary user" and os.getuid() != 0:
        pytest.skip("the other case is one")
    found = attack() if user.startswith("whoever") else as_user(attack)
    assert len(found) >= 15
    assert {what: kind for what, kind in found.items() if kind in (Kind.PASSED, Kind.INFRASTRUCTURE)} == {}


def test_a_test_that_would_pass_anything_is_not_what_runs(spoken: Language) -> None:
    """The planted fault: were the solution's own function tested against itself, this one would pass."""
    changed = {"python": "def one():\n    return 0\n\ndef double(x):\n    return 0 if x == 0 else 4\n",
               "js": "const one = () => 0\nconst double = (x) => {\n  return x === 0 ? 2 : 4;\n}\n"}  # fmt: skip
    assert judge(spoken, changed[spoken.name]).kind == Kind.WRONG
