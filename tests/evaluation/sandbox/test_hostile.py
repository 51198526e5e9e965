"""Programs that attack the machine end within their limits, reach nothing, and leave nothing, whoever starts them."""

import os
import resource
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from megatron_octo.evaluation.sandbox.box import Sandbox
from megatron_octo.evaluation.sandbox.bubblewrap import UNPRIVILEGED
from megatron_octo.evaluation.sandbox.levels import Level, Number, probe_level
from megatron_octo.evaluation.sandbox.limits import Limits, Outcome
from tests.evaluation.sandbox.as_user import USER, as_user
from tests.evaluation.sandbox.hostile import PYTHON, SHELL

# Time is a net: a busy machine needs longer for a second of CPU. Those that sleep are ended by it.
LIMITS = Limits(cpu_s=1.0, wall_s=30.0, memory_bytes=512 << 20)
SLOT = 77  # of no other test
SLEEPERS = {"sleep", "fork bomb in a shell", "stop supervisor", "kill all"}
COMMANDS = {
    **{what: ["/usr/bin/python3", "-I", "-c", text] for what, text in PYTHON.items()},
    **{what: ["/bin/sh", "-c", text] for what, text in SHELL.items()},
}
# What ends the worst of them; the others may end as they like, without success.
ENDS = {
    "endless output": "output",
    "endless errors": "output",
    "endless channel": "output",
    "sleep": "wall",
    "ignores the limit": "cpu",
    "cpu of children": "cpu",
    "memory of children": "memory",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs the system's Python"),
]


def left_over() -> list[str]:
    """Processes of this test's sandboxes, and their control groups."""
    users = {UNPRIVILEGED + SLOT, USER}
    # What has ended and waits for the machine's first process to notice is gone.
    found = [
        process.name()
        for process in psutil.process_iter(["uids", "status"])
        if process.info["uids"].real in users and process.info["status"] != psutil.STATUS_ZOMBIE
    ]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/**/octo-{os.getpid()}-*")]
    return found + groups


def limits_of(what: str) -> Limits:
    return replace(LIMITS, wall_s=2.0) if what in SLEEPERS else LIMITS


def attack(level: Level) -> dict[str, Outcome]:
    with Sandbox(level, SLOT) as box:
        return {
            what: box.run(command, files={"program": b"x"}, limits=limits_of(what))
            for what, command in COMMANDS.items()
        }


def check(outcomes: dict[str, Outcome]) -> None:
    assert len(outcomes) >= 40
    assert {what: found.trouble for what, found in outcomes.items() if found.trouble} == {}
    assert {what: found for what, found in outcomes.items() if b"DONE" in found.stdout} == {}
    assert {what: found.wall_s for what, found in outcomes.items() if found.wall_s > limits_of(what).wall + 2} == {}
    assert {what: found.cpu_s for what, found in outcomes.items() if found.cpu_s > LIMITS.cpu_s + 2} == {}
    for what, limit in ENDS.items():
        assert outcomes[what].limit == limit, (what, outcomes[what])
    assert outcomes["memory"].limit == "memory" or b"MemoryError" in outcomes["memory"].stderr
    assert b"left" in outcomes["orphan"].stdout and b"left" in outcomes["background"].stdout
    assert left_over() == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3 << 20  # KiB; pytest itself is most of it


@pytest.fixture(scope="module")
def level() -> Level:
    found = probe_level()
    if found.number < Number.NAMESPACES:
        pytest.skip(f"no sandbox here: {found.missing}")
    return found


def test_hostile_programs(level: Level) -> None:
    check(attack(level))


@pytest.mark.skipif(os.getuid() != 0, reason="the test above runs as an ordinary user")
def test_hostile_programs_started_by_an_ordinary_user(level: Level) -> None:
    check(as_user(lambda: attack(Level(Number.NAMESPACES))))
