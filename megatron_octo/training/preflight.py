"""Checks of every node before the model is built, which name the bad ones; see docs/faults.md."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_octo.common.errors import BadNodeError
from megatron_octo.common.files import beside, remove_leftovers
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.loading import check_batch
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.run_directory import RunDirectory
from megatron_octo.sizing.memory import memory
from megatron_octo.training.readiness.checklist import check_space
from megatron_octo.training.supervision import probes
from megatron_octo.training.supervision.probes import Facts

# Share of its peers' median below which a rank is bad. Ranks of a CPU share cores and memory with everything else
# there: their cores count with the best of some products, and their links are reported, not judged.
_SLOW_MATMUL = {"cuda": 0.85, "cpu": 0.3}
_SLOW_LINK = {"cuda": 0.5, "cpu": 0.0}
_SLOW_DISK = 0.2
_FREE_MEMORY = 0.9  # of a GPU, and of its peers' median; CUDA and NCCL take a share themselves
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """A fault of the machine of a rank; one that is not severe is reported, and the run goes on."""

    rank: int
    text: str
    severe: bool = True


def judge(facts: list[Facts], needed: float = 0.0) -> list[Finding]:
    """Find bad ranks from absolute limits and by comparison with peers on the same device.

    Args:
        facts: of all ranks.
        needed: bytes that the run will take on the fullest GPU, as far as is known.
    """
    kind = "cuda" if facts[0].devices else "cpu"
    findings = [Finding(fact.rank, f"{fact}: {fact.problem}") for fact in facts if fact.problem]
    findings += [
        Finding(
            fact.rank,
            f"{fact.host} does not see the run directory (is it on a shared file system, and mounted?)",
        )
        for fact in facts
        if fact.sees_run is False
    ]
    if kind == "cuda":
        findings += _judge_gpus(facts, needed)
    for name in sorted({fact.device for fact in facts}):
        peers = [fact for fact in facts if fact.device == name]
        findings += _slow(peers, "matmul", lambda f: f.matmul, _SLOW_MATMUL[kind], 1e12, "TFLOP/s")
        findings += _slow(peers, "link to its neighbours", lambda f: f.link, _SLOW_LINK[kind], 1e9, "GB/s")
    slow_disks = _slow(facts, "writing into the run directory", lambda f: f.disk_write, _SLOW_DISK, 1e6, "MB/s")
    return findings + [replace(finding, severe=False) for finding in slow_disks]


def _judge_gpus(facts: list[Facts], needed: float) -> Iterable[Finding]:
    usual = statistics.mode(fact.devices for fact in facts)
    for fact in facts:
        if fact.local_rank == 0 and fact.devices < usual:
            yield Finding(fact.rank, f"{fact.host} has {fact.devices} GPUs, the others have {usual}")
        twins = [other.rank for other in facts if (other.host, other.identity) == (fact.host, fact.identity)]
        if fact.identity and len(twins) > 1:
            yield Finding(fact.rank, f"{fact}: ranks {', '.join(map(str, twins))} have one GPU together")
        if fact.memory_free < _FREE_MEMORY * fact.memory_total:
            # A machine may keep a share for itself. That is bad where the others have more, or, for a single GPU, where
            # the run would fit otherwise; a run that fits nowhere is the recipe's mistake.
            peers = [other.memory_free for other in facts if other.device == fact.device]
            less = fact.memory_free < _FREE_MEMORY * statistics.median(peers)
            enough = max(peers) if len(peers) > 1 else _FREE_MEMORY * fact.memory_total
            text = f"{fact}: {fact.memory_free / _GIB:.1f} of {fact.memory_total / _GIB:.1f} GiB are free"
            text += f"; the run takes about {needed / _GIB:.1f}" if needed else ""
            yield Finding(fact.rank, text, less or fact.memory_free < needed <= enough)


def _slow(
    facts: list[Facts],
    what: str,
    value: Callable[[Facts], float | None],
    share: float,
    unit: float,
    name: str,
) -> Iterable[Finding]:
    known = [(fact, found) for fact in facts if (found := value(fact)) is not None]
    if len(known) < 2:
        return
    median = statistics.median(found for _, found in known)
    for fact, found in known:
        if found < share * median:
            yield Finding(
                fact.rank,
                f"{fact}: {what} {found / unit:.3g} {name}, its peers' median is {median / unit:.3g}",
            )


def measure(grid: Grid, run: Path) -> tuple[list[Facts], float | None]:
    """Return the facts of all ranks, and the bus bandwidth of an all-reduce in bytes/s. Collective."""
    device, hosts = grid.device, probes.hosts_of_ranks()
    facts = probes.look_around(hosts, device)
    token: list[Path | None] = [None]
    if grid.is_main:
        remove_leftovers(run, "preflight*")  # of a killed start; the others wait for the token
        token = [beside(run / "preflight-seen")]
        assert token[0] is not None
        token[0].touch()
    dist.broadcast_object_list(token, src=0)
    assert token[0] is not None
    dist.barrier()  # all at the same time, since they share a node's power and cooling
    facts = replace(facts, matmul=probes.matmul_speed(device))
    facts = replace(facts, link=probes.link_speed(hosts, device))
    reduced = probes.reduce_speed(device)
    if facts.local_rank == 0:
        facts = replace(facts, sees_run=probes.sees(token[0]))
        try:
            facts = replace(facts, disk_free=probes.free_space(run), disk_write=probes.write_speed(run, device))
        except OSError as error:
            facts = replace(facts, problem=f"cannot write into the run directory: {error}")
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    everyone: list[Facts] = [facts] * grid.world
    dist.all_gather_object(everyone, facts)
    if grid.is_main:
        token[0].unlink(missing_ok=True)
    return everyone, reduced


def _describe(facts: list[Facts], reduced: float | None, seconds: float) -> str:
    hosts = len({fact.host for fact in facts})
    devices = ", ".join(sorted({fact.device for fact in facts}))
    text = f"preflight: {len(facts)} x {devices} on {hosts} node{'s' if hosts > 1 else ''}; matmul "
    text += _range([fact.matmul for fact in facts], 1e12, "TFLOP/s")
    if reduced:
        text += f"; links {_range([fact.link for fact in facts], 1e9, 'GB/s')}, all-reduce {reduced / 1e9:.3g} GB/s"
    text += f"; disk {_range([fact.disk_write for fact in facts], 1e9, 'GB/s')}"
    free = [fact.disk_free for fact in facts if fact.disk_free is not None]
    text += f", {min(free) / 1e9:,.0f} GB free" if free else ""
    return f"{text}; {seconds:.1f} s"


def _range(values: list[float | None], unit: float, name: str) -> str:
    known = [value / unit for value in values if value is not None]
    if not known:
        return "not measured"
    low, high = min(known), max(known)
    return f"{low:.3g} {name}" if high < 1.05 * low else f"{low:.3g} to {high:.3g} {name}"


def preflight(recipe: Recipe, grid: Grid, run: RunDirectory, corpora: str) -> list[str]:
    """Check nodes, links and disk before the model is built. Collective.

    Args:
        recipe: of this start.
        grid: all ranks.
        run: the run's directory.
        corpora: digest of the data, for the record of a refused start.

    Returns:
        Lines for the log.

    Raises:
        OctoError: there is no room for the next checkpoint.
        BadNodeError: a node is bad, and ``system.preflight`` is to stop then.
    """
    mode = recipe.system.preflight
    if mode == "none":
        return []
    start = time.perf_counter()
    warning = grid.main_first(lambda: check_space(recipe, run) if grid.is_main else None)
    facts, reduced = measure(grid, run.path)
    needed = memory(recipe.model, recipe.compute, grid.layout.data, check_batch(recipe, grid.layout.data)).total
    findings = judge(facts, needed)
    lines = [_describe(facts, reduced, time.perf_counter() - start)]
    lines += [f"WARNING: {text}" for text in (warning, *(finding.text for finding in findings)) if text]
    bad = [finding for finding in findings if finding.severe]
    if bad and (mode == "stop" or (mode == "auto" and grid.device.type == "cuda")):
        _refuse(recipe, grid, run, corpora, bad)
    return lines


def _refuse(recipe: Recipe, grid: Grid, run: RunDirectory, corpora: str, findings: list[Finding]) -> None:
    """Record the attempt that ends here, with its culprits, and leave so that a scheduler starts it elsewhere."""
    text = "; ".join(finding.text for finding in findings)
    bad = tuple(sorted({finding.rank for finding in findings}))
    attempt = [run.next_attempt()]
    dist.broadcast_object_list(attempt, src=0)
    grid.main_first(lambda: run.open_attempt(recipe, grid.world, corpora))
    if grid.rank in bad:
        mine = "; ".join(finding.text for finding in findings if finding.rank == grid.rank)
        records.write_error(
            run.path,
            attempt=attempt[0],
            rank=grid.rank,
            kind=records.PREFLIGHT,
            step=0,
            phase="start",
            what=mine,
        )
    error = BadNodeError(
        f"preflight: {text}",
        where=run.path,
        hint="leave that node out (sbatch --exclude), or start with system.preflight=warn",
    )
    if grid.is_main:
        records.end_attempt(
            run.path,
            attempt[0],
            reason=records.PREFLIGHT,
            exit_code=error.code,
            last_step=0,
            detail=text,
            culprits=bad,
        )
    dist.barrier()  # no rank leaves before all is written
    raise error
