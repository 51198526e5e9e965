"""Runs in a sandbox: what they get, what is measured, how they end."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.sandbox.box import Sandbox
from megatron_octo.evaluation.sandbox.levels import Level, Number, probe_level, refuse_below
from megatron_octo.evaluation.sandbox.limits import Limits, Mount

NONE = Level(Number.NONE, ("apt: bubblewrap",))


@pytest.fixture(scope="module", params=["sandbox", "none"])
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    level = probe_level() if request.param == "sandbox" else NONE
    if request.param == "sandbox" and level.number < Number.NAMESPACES:
        pytest.skip(f"no sandbox here: {level.missing}")
    with Sandbox(level, slot=2) as opened:  # an open one keeps its control group
        yield opened


def test_files_streams_and_the_channel(box: Sandbox) -> None:
    script = "cat /w/a; cat; echo problem >&2; printf nonce >&7; exit 3"
    found = box.run(["/bin/sh", "-c", script], files={"a": b"file "}, stdin=b"input" * 50_000)
    assert (found.exit_code, found.signal, found.limit, found.trouble) == (3, None, None, None)
    assert found.stdout == b"file " + b"input" * 50_000
    assert (found.stderr, found.channel) == (b"problem\n", b"nonce")


def test_signals_and_variables(box: Sandbox) -> None:
    assert box.run(["/bin/sh", "-c", "kill -SEGV $$"]).signal == 11
    found = box.run(["/bin/sh", "-c", "echo $A $HOME"], environment={"A": "b c"})
    assert found.stdout.startswith(b"b c /tmp")


def test_mounts(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "in").write_text("there")
        (folder / "in").chmod(0o644)
        found = box.run(["/bin/sh", "-c", "cat /m/in > /m/out"], mounts=[Mount(folder, "/m", writable=True)])
        assert found.exit_code == 0 and (folder / "out").read_text() == "there"
        if box.level.number > Number.NONE:
            refused = box.run(["/bin/sh", "-c", "echo x > /m/other"], mounts=[Mount(folder, "/m")])
            assert refused.exit_code != 0 and not (folder / "other").exists()


@pytest.mark.slow
def test_limits(box: Sandbox) -> None:
    assert box.run(["/bin/sh", "-c", "while :; do :; done"], limits=Limits(cpu_s=1)).limit == "cpu"
    assert box.run(["/bin/sleep", "60"], limits=Limits(wall_s=0.2)).limit == "wall"
    assert box.run(["/usr/bin/yes"], limits=Limits(output_bytes=1000)).limit == "output"


def test_cpu_of_children_counts(box: Sandbox) -> None:
    work = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    one = box.run(["/bin/sh", "-c", work]).cpu_s
    three = box.run(["/bin/sh", "-c", f"for n in 1 2 3; do sh -c '{work}'; done"]).cpu_s
    assert 1.7 * one < three < 6 * one + 0.1


def test_a_missing_command_is_trouble_and_no_failure(box: Sandbox) -> None:
    found = box.run(["/nowhere/program"])
    assert found.trouble or (box.level.number == Number.NONE and found.exit_code == 127)


def test_a_session_answers_until_it_is_closed(box: Sandbox) -> None:
    session = box.start(["/bin/cat"])
    session.stdin.write(b"one\n")
    assert session.stdout.read(4) == b"one\n" and not session.ended()
    session.stdin.write(b"two\n")
    assert session.stdout.read(4) == b"two\n"
    ended = session.close()
    assert (ended.exit_code, ended.limit) == (0, None) and session.close() is ended
    killed = box.start(["/bin/sleep", "100"])
    killed.kill()
    assert killed.close().exit_code != 0


def test_slots_run_at_once(box: Sandbox) -> None:
    found = {}

    def run(slot: int) -> None:
        with Sandbox(box.level, 10 + slot) as own:
            found[slot] = [own.run(["/bin/sh", "-c", f"echo {slot}"]).stdout for _ in range(5)]

    threads = [threading.Thread(target=run, args=(slot,)) for slot in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {slot: [f"{slot}\n".encode()] * 5 for slot in range(6)}


def test_no_descriptor_is_left_open(box: Sandbox) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        box.run(["/bin/true"], files={"a": b"x"})
        box.start(["/bin/cat"]).close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_levels() -> None:
    refuse_below(Level(Number.NAMESPACES), unsafe=False)
    refuse_below(NONE, unsafe=True)
    with pytest.raises(OctoError, match="no sandbox on this machine: apt: bubblewrap"):
        refuse_below(NONE, unsafe=False)
    assert "namespaces" in Level(Number.FULL).name and "none" in NONE.name
