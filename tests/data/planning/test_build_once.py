"""One process makes a plan, whoever comes first; the others wait, and survive its death."""

import json
import multiprocessing
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.data import row_stream as stream
from megatron_octo.data.planning import build_once as once
from megatron_octo.data.planning.build_once import lock_path, make_once, take_lock
from megatron_octo.data.planning.paths import read_group
from megatron_octo.data.planning.plan_cache import cached_plan, plan_directory, read_plan, write_plan
from megatron_octo.data.planning.planner import Planner
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.row_stream import Position, RowStream
from tests.data.dataset.test_indexed import write
from tests.data.test_row_stream import tagged
from tests.leftovers import left_by_a_kill


def _make(target: Path, start: float) -> None:
    def make() -> None:
        with open(target.parent / "made", "a") as file:
            file.write("x")
        time.sleep(0.3)
        target.mkdir()

    time.sleep(max(start - time.time(), 0))
    make_once(target, make)
    assert target.is_dir()


@pytest.mark.slow
def test_processes_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = time.time() + 1.5
    crew = [context.Process(target=_make, args=(tmp_path / "it", start)) for _ in range(4)]
    for process in crew:
        process.start()
    for process in crew:
        process.join(60)
    assert [process.exitcode for process in crew] == [0] * 4
    assert (tmp_path / "made").read_text() == "x"
    assert not lock_path(tmp_path / "it").exists()


def test_a_dead_maker_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "STALE", 0.3)
    assert take_lock(tmp_path / "it") and not take_lock(tmp_path / "it")
    make_once(tmp_path / "it", (tmp_path / "it").mkdir)
    assert (tmp_path / "it").is_dir() and not lock_path(tmp_path / "it").exists()


def test_a_lock_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (0, hard)
    )  # as on a full disk: the file comes to be, its content does not
    try:
        with pytest.raises(OSError, match="File too large"):
            make_once(tmp_path / "it", (tmp_path / "it").mkdir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_dead_maker_of_this_host_is_replaced_at_once(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from megatron_octo.data.planning.build_once import take_lock\n"
        "take_lock(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "it")], check=True)
    assert lock_path(tmp_path / "it").exists()
    start = time.monotonic()
    make_once(tmp_path / "it", (tmp_path / "it").mkdir)
    assert time.monotonic() - start < 5


@pytest.mark.slow
def test_a_lock_has_a_name_from_its_first_moment(tmp_path: Path) -> None:
    """Processes that take and give back a lock, killed wherever they are: none leaves a lock without an owner."""
    script = (
        "import sys; from pathlib import Path; from megatron_octo.data.planning.build_once import holding, take_lock\n"
        "print(flush=True)\n"
        "while take_lock(Path(sys.argv[1])):\n"
        "    with holding(Path(sys.argv[1])): pass"
    )
    for moment in range(10):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "it")], stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.01 + 0.0037 * moment)
        process.kill()
        process.wait()
        lock = lock_path(tmp_path / "it")
        assert not lock.exists() or json.loads(lock.read_text())["pid"] == process.pid
        start = time.monotonic()
        assert take_lock(tmp_path / "it") and time.monotonic() - start < 1
        lock.unlink()


def _planner(folder: Path) -> Planner:
    write(folder / "p", tagged([[(3, 0), (4, 1)] for _ in range(20)]))
    return Planner(read_group(f"x: 1 0:1 {folder}/p"), RowSettings(12, 0, cache_dir=folder / "plans"))


def test_what_dead_makers_left_goes(tmp_path: Path) -> None:
    planner = _planner(tmp_path)
    directory = plan_directory(planner.cache, {})
    for name in (f".{directory.name}.abc", ".another.abc"):
        (planner.cache / name).mkdir(parents=True)
        (planner.cache / name / "order.npy").write_bytes(b"half")
    left_by_a_kill(lock_path(directory))
    cached_plan(planner.cache, {}, lambda: planner.build(0))
    assert sorted(path.name for path in planner.cache.iterdir()) == [".another.abc", directory.name]


def test_a_maker_that_was_slower_takes_the_plan_that_is_there(tmp_path: Path) -> None:
    """The faster one has removed the slower one's files while it wrote them."""
    planner = _planner(tmp_path)
    plan, directory = planner.build(0), plan_directory(planner.cache, {})

    class Overtaken:
        """A plan while whose third part is written another process finishes its own."""

        order, offsets, weights = plan.order, plan.offsets, plan.weights
        bases, summary = plan.bases, plan.summary

        @property
        def cuts(self) -> np.ndarray:
            write_plan(plan, directory, {})
            return plan.cuts

    write_plan(Overtaken(), directory, {})  # type: ignore[arg-type]
    assert np.array_equal(read_plan(directory, {}).order, plan.order)
    assert [path.name for path in planner.cache.iterdir()] == [directory.name]


@pytest.mark.slow
def test_a_living_maker_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "STALE", 0.5)
    monkeypatch.setattr(once, "HEARTBEAT", 0.05)
    made: list[str] = []

    def slow() -> None:
        time.sleep(1.5)
        made.append("slow")
        (tmp_path / "it").mkdir()

    first = threading.Thread(target=make_once, args=(tmp_path / "it", slow))
    first.start()
    while not lock_path(tmp_path / "it").exists():
        time.sleep(0.01)
    make_once(tmp_path / "it", lambda: made.append("second"))
    first.join()
    assert made == ["slow"]


def test_who_fails_gives_way(tmp_path: Path) -> None:
    def fail() -> None:
        raise OctoError("no")

    for _ in range(2):
        with pytest.raises(OctoError, match="no"):
            make_once(tmp_path / "it", fail)
    make_once(tmp_path / "it", (tmp_path / "it").mkdir)


def test_the_next_epoch_is_planned_by_one_process_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many ranks read past the middle of an epoch: one starts a process, and its plan is the one they would make."""
    monkeypatch.setattr(stream, "AHEAD", 10)
    write(tmp_path / "p", tagged([[(3, 0), (4, 1)] for _ in range(200)]))
    group = read_group(f"x: 1 0:1 {tmp_path}/p")
    options = {"seq_length": 12, "seed": 0, "overlong": "window"}
    ranks = [RowStream(group, RowSettings(cache_dir=tmp_path / "plans", **options)) for _ in range(4)]
    children: list[subprocess.Popen[bytes]] = []
    real = Planner.ahead

    def ahead(self: Planner, epoch: int) -> subprocess.Popen[bytes] | None:
        child = real(self, epoch)
        children.extend([child] if child else [])
        return child

    monkeypatch.setattr(Planner, "ahead", ahead)
    for rank in ranks:
        rank.take(Position(0, 10), 5)
    assert not children
    for rank in ranks:
        rank.take(Position(0, ranks[0].rows(0) // 2), 5)
    assert len(children) == 1
    assert children[0].wait(60) == 0
    planner = Planner(group, RowSettings(cache_dir=tmp_path / "plans", **options))
    assert plan_directory(planner.cache, {**planner.key, "epoch": 1}).is_dir()
    assert not list((tmp_path / "plans").glob(".*"))
    monkeypatch.setattr(Planner, "build", None)  # it is not built again
    expected = Planner(group, RowSettings(cache_dir=tmp_path / "other", **options))
    monkeypatch.undo()
    assert np.array_equal(ranks[0]._plan(1).order, expected.build(1).order)


@pytest.mark.slow
def test_rows_are_the_same_in_every_process_and_for_every_world_size(tmp_path: Path) -> None:
    """What a rank reads is a function of the row's number: any way to share rows out gives the same tokens."""
    write(tmp_path / "p", tagged([[(1 + i % 9, 0), (3 + 7 * i % 60, 1)] for i in range(150)]), 60000)
    text = f"x: 1 0:1 {tmp_path}/p"
    script = """
import sys, xxhash
from megatron_octo.data.planning.paths import read_group
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.row_stream import RowStream, Position
text, cache, world = sys.argv[1], sys.argv[2], int(sys.argv[3])
settings = RowSettings(seq_length=32, seed=5, overlong="window", norm_target_loss=True, cache_dir=cache)
rows = RowStream(read_group(text), settings)
position = Position()
for step in range(12):
    taken, position = rows.take(position, 24)
    parts = [rows.batch(taken[rank * 24 // world : (rank + 1) * 24 // world]) for rank in range(world)]
    for name in ("tokens", "labels", "positions", "weights"):
        joined = b"".join(getattr(part, name).tobytes() for part in parts)
        print(xxhash.xxh3_64_hexdigest(joined), rows.weight(taken), position)
"""
    crew = [
        subprocess.Popen(
            [sys.executable, "-c", script, text, str(tmp_path / cache), str(world)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for cache, world in [("a", 1), ("a", 2), ("a", 4), ("b", 8)]
    ]
    outputs = [process.communicate(timeout=60)[0] for process in crew]
    assert outputs[0] and outputs.count(outputs[0]) == 4


def test_data_room_plans_without_torch(tmp_path: Path) -> None:
    script = "import sys, megatron_octo.data.row_stream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_proportions_are_exact(tmp_path: Path) -> None:
    """Three corpora with weights 5 : 3 : 2, over as many epochs as it takes to see each document equally often."""
    sizes = {"a": (40, 9), "b": (60, 5), "c": (80, 7)}
    for name, (count, length) in sizes.items():
        write(tmp_path / name, tagged([[(1, 0), (length, 1)] for _ in range(count)]))
    weights = {"a": 5, "b": 3, "c": 2}
    group = read_group("x: " + ", ".join(f"{weights[name]} 0:1 {tmp_path}/{name}" for name in sizes))
    rows = RowStream(group, RowSettings(seq_length=30, seed=0, cache_dir=tmp_path / "plans"))
    positions: Counter[int] = Counter()
    for epoch in range(25):
        for row in range(rows.rows(epoch)):
            for segment in rows.segments(epoch, row):
                positions[segment.source] += len(segment.weights)
    total = sum(positions.values())
    for number, name in enumerate(sizes):
        share = Fraction(weights[name], 10)
        assert abs(positions[number] / total - float(share)) < 1e-3, name
