"""Saving while training goes on: the same bytes as saving that waits, and everything that may happen meanwhile."""

import errno
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.resume_kills import campaign
from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.common.errors import MachineError, OctoError
from megatron_octo.model.platform.grid import Grid
from megatron_octo.training.state.host_memory import available_bytes
from tests.conftest import recipe_tree
from tests.distributed import run_ranks
from tests.runfiles.test_signals import lines, wait_for
from tests.training.runs import STEPS, TestRun, exit_codes, small_corpus

GIB = 1 << 30


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "sections"),
    [
        (1, {"model": {"hidden_dropout": 0.1}}),
        (2, {"parallel": {"tensor": 2, "sequence": True}, "train": {"precision": "bf16"}}),
    ],
    ids=["fp32", "tp2-bf16"],
)
def test_the_same_checkpoints_either_way(tmp_path: Path, corpus: Path, world: int, sections: dict[str, Any]) -> None:
    runs = {}
    for asynchronous in (True, False):
        checkpoint = {"interval": 2, "keep": 9, "asynchronous": asynchronous}
        run = runs[asynchronous] = TestRun(tmp_path / str(asynchronous), corpus, checkpoint=checkpoint, **sections)
        text = run.train(world)
        # Training learns of the end of the write after step 3, and of the commit after step 4, at the earliest.
        events = re.findall(r"^(step|saved) (?:\S*step-0000000)?(\d)", text, re.MULTILINE)
        before = events[events.index(("saved", "2")) - 1]
        assert before[0] == "step"
        assert before[1] >= "4" if asynchronous else before[1] == "2"
    for step in (2, 4, 6):
        assert runs[True].content(step) == runs[False].content(step)
    assert runs[True].names() == runs[False].names()


@pytest.mark.slow
def test_what_is_kept_and_weights_alone(tmp_path: Path, corpus: Path) -> None:
    checkpoint = {"interval": 1, "keep": 2, "keep_every": 3, "weights_every": 4, "weights_dtype": "bf16"}
    run = TestRun(tmp_path, corpus, checkpoint=checkpoint, parallel={"tensor": 2})
    run.train(2, "train.steps=3")
    # The same weights twice in one save, in fp32 and in bf16.
    run.train(2, "train.steps=5", "checkpoint.keep=1")
    assert run.names() == ["latest", "step-00000003", "step-00000005"]
    weights = run.path / layout.WEIGHTS
    assert sorted(path.name for path in weights.iterdir()) == [
        "step-00000003",
        "step-00000004",
        "step-00000005",
    ]
    whole, alone = CheckpointReader(run.step(5)), CheckpointReader(weights / "step-00000005")
    alone.verify()
    assert sorted(alone.manifest.files) == ["weights-tp00-pp00.safetensors", "weights-tp01-pp00.safetensors"]
    assert (alone.manifest.precision, alone.manifest.step, alone.manifest.state) == ("bf16", 5, {})
    assert alone.names() == whole.names()
    for name in whole.names():
        assert torch.equal(alone.read(name), whole.read(name).bfloat16())
    # Another run may start from them, and with the recipe's precision they are one file with the checkpoint's.
    other = TestRun(
        tmp_path,
        corpus,
        "other",
        checkpoint={"interval": 1, "weights_every": 1, "init_from": str(weights / "step-00000005")},
    )
    assert f"starting from the weights of {weights / 'step-00000005'}" in other.train(1, "train.steps=1")
    name = "weights-tp00-pp00.safetensors"
    one, two = (load_file(path / name) for path in (other.step(1), other.path / layout.WEIGHTS / "step-00000001"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    only = TestRun(tmp_path, corpus, "only", checkpoint={"interval": 0, "weights_every": 1})
    only.train(1, "train.steps=1")
    assert only.names() == []
    assert [path.name for path in (only.path / layout.WEIGHTS).iterdir()] == ["step-00000001"]


@pytest.mark.slow
def test_a_request_to_stop_waits_for_the_save_in_flight(tmp_path: Path, corpus: Path) -> None:
    whole = TestRun(tmp_path, corpus, "whole", checkpoint={"interval": 1, "keep": 9})
    whole.train(2)
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 1, "keep": 9})
    processes = run.start(2)
    wait_for(lambda: lines(run) >= 2, lambda: all(process.is_alive() for process in processes))
    os.kill(processes[1].pid or 0, signal.SIGTERM)
    assert exit_codes(processes) == [75, 75]
    step = run.state()["step"]
    assert 2 <= step < STEPS
    assert run.names() == ["latest", *(layout.step_name(number) for number in range(1, step + 1))]
    for number in range(1, step + 1):
        assert run.content(number) == whole.content(number)


def test_files_and_links_in_the_places_of_checkpoints_are_replaced(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 1, "keep": 4})
    places = run.path / layout.CHECKPOINTS
    places.mkdir(parents=True)
    (places / "step-00000001").write_text("a file")
    (places / "step-00000002").symlink_to("nowhere")
    (places / ".step-00000003.tmp").write_text("a file")
    (places / ".step-00000003.removed").symlink_to("nowhere")
    run.train(1, "train.steps=3")
    assert run.names() == ["latest", "step-00000001", "step-00000002", "step-00000003"]
    for step in (1, 2, 3):
        CheckpointReader(run.step(step)).verify()
    assert not [path for path in places.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path) -> None:
    """A small version of benchmarks/resume_kills.py, which compares everything."""
    found = campaign(tmp_path, kills=6, seed=1, steps=20)
    assert found["kills"] >= 6
    assert found["runs"] >= 1


def save_and_lose_the_run(tree: dict[str, Any], error: Exception) -> tuple[int, str, list[str]]:
    """A save that is in flight when the lock fails; exit code, what is said, and what is in the folder."""
    from megatron_octo.recipe.loading import build_recipe
    from megatron_octo.training.engine.network import Network
    from megatron_octo.training.state.saver import Saver

    recipe = build_recipe(tree)
    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), 0)
    network = Network(recipe, grid)
    network.start_from(None)
    ours = True

    def still_ours() -> None:
        if not ours:
            raise error

    folder = Path(recipe.run_dir)
    saver = Saver(
        folder,
        network,
        recipe,
        grid,
        tokenizer=None,
        attempt=1,
        saved=lambda step, seconds: None,
        owned=still_ours,
        say=lambda text: None,
    )
    saver.save(1, False, {})
    ours = False
    try:
        saver.wait()
    except OctoError as found:
        return found.code, str(found), sorted(path.name for path in (folder / layout.CHECKPOINTS).iterdir())
    return 0, "", []


@pytest.mark.parametrize(
    "error",
    [MachineError("another attempt took over"), OSError(errno.EIO, "server away"), OctoError("no room")],
)
def test_a_run_that_was_lost_is_left_alone(tmp_path: Path, corpus: Path, error: Exception) -> None:
    tree = recipe_tree(corpus, tmp_path / "run", checkpoint={"interval": 1, "asynchronous": True})
    ((code, said, names),) = run_ranks(1, save_and_lose_the_run, tree, error)
    assert str(error) in said
    assert code == (2 if type(error) is OctoError else 76), "an error that a restart may fix requests one"
    assert names == [".step-00000001.1.tmp"], "not committed; and what lies there may be the other's by now"


def lack_on_this_rank(sizes: list[int]) -> str | None:
    from megatron_octo.config.layout import Layout
    from megatron_octo.training.state.host_copy import lack_of_memory

    grid = Grid.build(Layout(), torch.device("cpu"), 0)
    return lack_of_memory(sizes[grid.rank], grid)


def test_ranks_of_a_machine_share_its_memory() -> None:
    free = available_bytes()
    assert free is not None
    assert run_ranks(2, lack_on_this_rank, [free // 10, free // 10]) == [None, None]
    for answer in run_ranks(2, lack_on_this_rank, [free // 10, 9 * free // 10]):
        assert "a copy of the state takes" in answer


def test_memory_that_a_job_was_given(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    job = groups / "slurm" / "job_7"
    job.mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    assert available_bytes(proc, groups) is None
    (proc / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {64 * 1024 * 1024} kB\n")
    assert available_bytes(proc, groups) == 64 * GIB
    (proc / "self" / "cgroup").write_text("0::/slurm/job_7\n")
    assert available_bytes(proc, groups) == 64 * GIB  # no limits anywhere
    for group, limit, used in ((job, "max", 5), (groups / "slurm", str(20 * GIB), 10 * GIB)):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 1\nactive_file {GIB}\ninactive_file {GIB}\n")
    assert available_bytes(proc, groups) == 12 * GIB  # the step's own group is free, the one above is not
    # Version 1 has a hierarchy of its own for memory, and writes a huge number where there is no limit.
    (proc / "self" / "cgroup").write_text("9:cpuset:/\n7:memory:/slurm/job_7\n")
    for group, limit in (("", 2**63 - 4096), ("slurm", 2**63 - 4096), ("slurm/job_7", 8 * GIB)):
        folder = groups / "memory" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (folder / "memory.usage_in_bytes").write_text(f"{3 * GIB}\n")
        (folder / "memory.stat").write_text(f"cache 1\ntotal_active_file {GIB}\ntotal_inactive_file 0\n")
    assert available_bytes(proc, groups) == 6 * GIB
