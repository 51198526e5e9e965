"""Saves a run's state while it trains: copied to host memory, written by a thread, committed when all ranks are done.

A save goes through two phases, each over all ranks:

1. writing: every rank's thread writes its files and a part file that lists them (checkpoint/rank_parts.py);
2. committing: rank 0's thread makes the manifest of the parts, renames the directory, moves ``latest``, prunes.

A thread must not take part in collectives, which would mix with those of training. Every rank adds its news to the sum
that ends a step anyway (metrics.py); all see the same sum, and all enter the next phase after the same step. At most
one save is in flight. A directory that a kill left half written is never taken for a checkpoint (checkpoint.directory).
"""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.directory import Manifest
from megatron_octo.checkpoint.file_image import CancelledSave
from megatron_octo.checkpoint.rank_parts import merge_parts, write_part
from megatron_octo.common import files
from megatron_octo.common.errors import MachineError, OctoError, machines_failure
from megatron_octo.common.torch_dtypes import DTYPES
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.engine.metrics import SaveNews
from megatron_octo.training.engine.network import Network
from megatron_octo.training.state.host_copy import HostCopy, write_directly
from megatron_octo.training.state.save import Save, Target
from megatron_octo.training.state.state_parts import full_part, weights_part


class Saver:
    """Writes the checkpoints of a run. All methods but ``news``, ``before_update`` and ``close`` are collective.

    Args:
        run: the run's directory; checkpoints and weights have folders in it.
        network: its weights and optimizer have their values (``Network.start_from``).
        tokenizer: digest of the data's tokenizer.json.
        attempt: number of this attempt at the run.
        saved: called on every rank with the step of a committed save, and its seconds.
        owned: raises MachineError if another attempt has taken over the run; called on rank 0 before every change.
        say: prints a line.
        ends: token and id that end a document in the data, one for each choice that was made.
    """

    def __init__(
        self,
        run: Path,
        network: Network,
        recipe: Recipe,
        grid: Grid,
        *,
        tokenizer: str | None,
        attempt: int,
        saved: Callable[[int, float], None],
        owned: Callable[[], None] = lambda: None,
        say: Callable[[str], None],
        ends: Sequence[dict[str, Any]] = (),
    ):
        self._run, self._network, self._recipe, self._grid = run, network, recipe, grid
        self._tokenizer, self._attempt, self._saved, self._say = tokenizer, attempt, saved, say
        self._ends = {"ends": list(ends)} if ends else {}
        self._owned = owned
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._cancelled = threading.Event()
        self._phases = 0  # that all ranks have been through since the start
        self._save: Save | None = None
        self._copy: HostCopy | None = None
        checkpoint = recipe.checkpoint
        if checkpoint.asynchronous and (checkpoint.interval or checkpoint.weights_every):
            targets = self._targets({}, bool(checkpoint.interval), bool(checkpoint.weights_every))
            self._copy = HostCopy((target.part for target in targets), grid, self._worker, say)

    def _targets(self, state: dict[str, Any], full: bool, weights: bool) -> list[Target]:
        recipe, grid, core = self._recipe, self._grid, self._network.core
        found = []
        if full:
            optimizer = self._network.optimizer
            part = full_part(core, optimizer, recipe, grid)
            complete = {**state, "optimizer_steps": optimizer.steps}
            found.append(Target(self._run / layout.CHECKPOINTS, part, recipe.train.precision, complete))
        if weights:
            precision = recipe.checkpoint.weights_dtype or recipe.train.precision
            part = weights_part(core, recipe, grid, DTYPES[precision])
            base = {key: value for key, value in state.items() if key == "base"}  # adapters need it
            found.append(Target(self._run / layout.WEIGHTS, part, precision, base))
        return found

    def due(self, step: int, last: bool) -> tuple[bool, bool]:
        """Return whether to save the whole state, and the weights alone, after a step.

        Args:
            step: number of steps done.
            last: no step comes after it.
        """
        checkpoint = self._recipe.checkpoint
        full = bool(checkpoint.interval) and (last or step % checkpoint.interval == 0)
        # Weights of a run that stops to go on later have no use, and they would never be removed.
        finished = step == self._recipe.train.steps
        every = checkpoint.weights_every
        return full, bool(every) and (finished or step % every == 0)

    def save(self, step: int, last: bool, state: dict[str, Any]) -> None:
        """Save what is due after a step, or start to; wait for a save that is still in flight.

        Args:
            step: number of steps done.
            last: no step comes after this one.
            state: position in the data and other state that training resumes from (JSON).

        Raises:
            OctoError: see :meth:`wait`.
        """
        started = time.perf_counter()
        self.wait()
        save = self._save = Save(step, self._attempt, self._targets(state, *self.due(step, last)), Future(), started)
        self._grid.main_first(self._make_directories)  # before any rank writes
        copy = self._copy if self._copy and self._copy.ready() else None
        with self._network.gathered():
            if copy:
                copy.fill(target.part for target in save.targets)
                save.job = self._worker.submit(self._write, save, copy)
            else:
                try:
                    self._write(save, None)
                    save.job.set_result(None)
                except Exception as error:
                    save.job.set_exception(error)
        save.waited = time.perf_counter() - started
        # All ranks wait, or none does, even if one of them alone has no memory to lock.
        if last or self._copy is None or not self._copy.possible:
            self.wait()

    def before_update(self) -> None:
        """Let copies that are under way finish; called before the weights change."""
        if self._copy:
            self._copy.before_update()

    def news(self) -> SaveNews:
        """Return this rank's progress, for the sum at the end of a step."""
        if self._save is None or not self._save.job.done():
            return SaveNews(self._phases)
        failed = self._save.job.exception() is not None
        return SaveNews(self._phases + (not failed), failed)

    def advance(self, total: SaveNews) -> None:
        """Go on after a step, as decided by the sum of all ranks' news.

        Raises:
            OctoError: see :meth:`wait`.
        """
        if self._copy:
            self._copy.take()
        if self._save and total.failed:
            self._cancelled.set()
            self.wait()
        # A rank can be one phase ahead at most; this sum means that all of them are.
        if self._save and total.phases == self._grid.world * (self._phases + 1):
            self._next_phase(self._save)

    def wait(self) -> None:
        """Return when no save is in flight.

        Raises:
            OctoError: some rank could not write (a full disk, say). Nothing is committed, older checkpoints stay.
            MachineError: another attempt has taken over the run.
        """
        started = time.perf_counter()
        while self._save:
            wait([self._save.job])
            error = self._save.job.exception()
            mine = None
            if error is not None and not isinstance(error, CancelledSave):
                mine = (f"rank {self._grid.rank}: {error}", machines_failure(error) is not None)
            everybodys: list[Any] = [None] * self._grid.world
            dist.all_gather_object(everybodys, mine)
            if problems := [problem for problem in everybodys if problem]:
                self._give_up(problems, error)
            self._save.waited += time.perf_counter() - started
            started = time.perf_counter()
            self._next_phase(self._save)

    def close(self) -> None:
        """Give up what is in flight; for a run that ends in an error."""
        self._cancelled.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    # The phases

    def _make_directories(self) -> None:
        assert self._save
        if self._grid.is_main:
            self._owned()
            for path in self._save.paths(hidden=True):
                files.remove_any(path)
                path.mkdir(parents=True)

    def _write(self, save: Save, copy: HostCopy | None) -> None:
        for target, directory in zip(save.targets, save.paths(hidden=True)):
            records = {}
            for name, stored in target.part.files.items():
                path = directory / name
                records[name] = copy.write(path, stored, self._cancelled) if copy else write_directly(path, stored)
            write_part(directory, self._grid.rank, records, target.part.tensors)

    def _commit(self, save: Save) -> None:
        checkpoint = self._recipe.checkpoint
        for target, aside, final in zip(save.targets, save.paths(hidden=True), save.paths(hidden=False)):
            records, tensors = merge_parts(aside, self._grid.world)
            manifest = Manifest(
                model=self._recipe.model,
                step=save.step,
                precision=target.precision,
                tokenizer=self._tokenizer,
                files=records,
                tensors=tensors,
                layout=self._grid.layout.sizes(),
                state=target.state,
                lora=self._recipe.lora,
                provenance={"run": str(self._run.absolute()), "attempt": self._attempt, **self._ends},
            )
            layout.write_manifest(aside, manifest)
            self._owned()  # a machine that slept since this save began may have lost the run
            if os.path.lexists(final):  # damaged, or from before an operator rolled back
                layout.discard(final)
            aside.rename(final)
            files.sync_directory(target.folder)
            self._owned()
            if target.folder.name == layout.WEIGHTS:
                layout.sweep(target.folder)
            else:
                layout.set_latest(target.folder, final.name)
                layout.prune(target.folder, checkpoint.keep, save.step, checkpoint.keep_every)

    def _next_phase(self, save: Save) -> None:
        self._phases += 1
        if not save.committing:
            save.committing = True
            if self._grid.is_main:
                save.job = self._worker.submit(self._commit, save)
            return  # the others' job is done
        self._save = None
        seconds = time.perf_counter() - save.started
        for path in save.paths(hidden=False):
            self._say(f"saved {path} in {seconds:.1f} s; training waited {save.waited:.2f} s")
        self._saved(save.step, seconds)

    def _give_up(self, problems: list[tuple[str, bool]], error: BaseException | None) -> NoReturn:
        """Remove what was written, and raise on all ranks what went wrong.

        Args:
            problems: of the ranks, each with whether a restart may help.
            error: this rank's.
        """
        save = self._save
        assert save

        def clear() -> None:
            if self._grid.is_main:
                with contextlib.suppress(OSError):
                    self._owned()  # if the run was lost, the other attempt's removals may be this save's errors
                    for path in save.paths(hidden=True):
                        shutil.rmtree(path, ignore_errors=True)

        self._grid.main_first(clear)
        if error and not isinstance(error, OSError | OctoError | CancelledSave):
            raise error  # a bug of ours keeps its traceback
        kind = MachineError if all(machines for _, machines in problems) else OctoError
        raise kind(
            f"checkpoint of step {save.step} could not be written: " + "; ".join(text for text, _ in problems),
            where=save.paths(hidden=False)[0],
            hint="older checkpoints are untouched; fix the cause and start again to resume from the last one",
        )
