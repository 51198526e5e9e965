"""Training loop: step, validate, save. Every rank runs this code."""

import time
from typing import NoReturn

import torch.distributed as dist

from megatron_octo.common.errors import REQUEUE
from megatron_octo.data.row_stream import Position
from megatron_octo.runfiles.attempts import FINISHED, WALL_CLOCK
from megatron_octo.runfiles.samples import SampleLog, keep_batch, kept_path
from megatron_octo.runfiles.signals import WallClock
from megatron_octo.training.engine.batches import Loader, StepBatch
from megatron_octo.training.engine.loss_guard import Guard, GuardError
from megatron_octo.training.engine.metrics import Totals, agree_to_stop, reduce_totals
from megatron_octo.training.engine.network import Network
from megatron_octo.training.engine.replica_check import ReplicaCheck
from megatron_octo.training.engine.reporter import Reporter
from megatron_octo.training.engine.schedule import learning_rate
from megatron_octo.training.run import Run
from megatron_octo.training.state.checkpoint_choice import missing_records
from megatron_octo.training.state.resume import resume, tidy
from megatron_octo.training.state.saver import Saver
from megatron_octo.training.supervision.diagnosis import Phase
from megatron_octo.training.supervision.fault_injection import Faults


class Training:
    """Network, optimizer and records of a run that goes on from where its :class:`.Run` stands.

    Attributes:
        step: steps that are done; ``saved``: the last one with a checkpoint.
        position: the next row of the data.
    """

    def __init__(self, run: Run):
        recipe, grid = run.recipe, run.grid
        self.recipe, self.grid, self.corpora, self.directory = recipe, grid, run.corpora, run.directory
        self.watch, self.stop, self.owned = run.watch, run.stop, run.owned
        self.faults = Faults(grid.rank)
        self.network = Network(recipe, grid)
        self._open(run)
        self.reporter = grid.main_first(lambda: Reporter(recipe, grid, self.directory))
        for line in run.lines:
            self.reporter.say(line)
        # Rank 0's clock decides for all.
        system = recipe.system
        self.clock = WallClock(self.stop.made, system.wall_minutes, system.reserve_minutes) if grid.is_main else None
        self.step, self.position = 0, Position()
        self._at("start", 0)
        folder, say = self.directory.checkpoints, self.reporter.say
        state = resume(self.network, recipe, grid, self.corpora, folder, say)
        if grid.is_main:
            for text in missing_records(self.directory.path, state.step):
                say(text)
            self.owned(now=True)
            tidy(folder, recipe, state.step)
        self.step, self.position, self._base = state.step, state.position, state.base
        self.saved = self.step
        self.guard = Guard(recipe.guard, state.guard)
        self.check_replicas = ReplicaCheck(self.network.core, recipe, grid)
        self.samples = grid.main_first(
            lambda: SampleLog(self.directory.path, self.directory.attempt) if grid.is_main else None
        )
        self.saver = self._make_saver()

    def _open(self, run: Run) -> None:
        """Open this attempt's records. Collective."""
        recipe, grid, directory = self.recipe, self.grid, self.directory

        def work() -> None:
            self.owned(now=True)
            directory.open_attempt(recipe, grid.world, self.corpora.digest, self.network.kernels)
            if grid.is_main:
                run.verified.write(directory.path)

        grid.main_first(work)
        number = [directory.attempt]
        dist.broadcast_object_list(number, src=0)
        directory.attempt = self.faults.attempt = number[0]
        if self.watch:
            self.watch.run_is_open(directory.path, number[0])

    def _at(self, phase: Phase, step: int | None = None) -> None:
        """Note that this rank has come to a phase of a step, by default of the one that is being made."""
        number = self.step + 1 if step is None else step
        if self.watch:
            self.watch.done = self.step
            self.watch.at(number, phase)
        self.faults.at(number, phase)

    def train(self) -> int:
        """Train to the last step; return the process's exit code."""
        self._describe()
        self.grid.main_first(self._begin)
        try:
            reason = self._train_steps()
        finally:
            self.saver.close()
        code = REQUEUE if reason != FINISHED else 0
        status = "stopped" if code else "finished"
        self.owned()
        self.directory.write_state(status, self.step, steps=self.recipe.train.steps, saved=self.saved)
        self.directory.end_attempt(reason, code, self.step)
        self.reporter.say(f"{status} at step {self.step}")
        self.reporter.close()
        if self.samples:
            self.samples.close()
        return code

    def _begin(self) -> None:
        """Record on rank 0 that training begins with this recipe."""
        if not self.grid.is_main:
            return
        self.owned(now=True)
        self.reporter.open_boards(self.step)
        self.directory.begin_training(self.recipe)
        self.directory.write_state("running", self.step, steps=self.recipe.train.steps, saved=self.saved)

    def _describe(self) -> None:
        recipe, say = self.recipe, self.reporter.say
        say(f"device {self.grid.device.type}, {self.grid.layout}; {self.network.chosen}")
        kernels, earlier = self.network.kernels, self.directory.earlier_kernels()
        for what in {**kernels, **earlier} if earlier else ():
            if kernels.get(what) != earlier.get(what):
                before = earlier.get(what, "kernels that it does not name")
                say(f"the attempt before computed {what} with {before}: it will not go on to the last bit")
        say(f"cross entropy: {self.network.cross_entropy.kind}; precision: {recipe.train.precision}")
        for line in self.corpora.describe(recipe):
            say(line)
        self.reporter.log_formula()

    def _train_steps(self) -> str:
        """Train to the last step or until a request to stop; return the reason of the end."""
        recipe = self.recipe
        # A request that came during the start finds nothing to save.
        if stop := agree_to_stop(self.stop.reason, self.grid):
            self.reporter.say(f"stopping before the first step ({stop}); the same command goes on")
            return stop
        loader = Loader(self.corpora.train, recipe, self.grid, self.position, recipe.train.steps - self.step)
        reason = FINISHED
        while self.step < recipe.train.steps:
            totals = self._one_step(loader)
            self.saver.advance(totals.saves)
            last = bool(totals.stop) or self.step == recipe.train.steps
            saving = any(self.saver.due(self.step, last))
            if (every := recipe.guard.replica_interval) and (saving or self.step % every == 0):
                self._at("replicas", self.step)
                with self.network.gathered():
                    self.check_replicas(self.step)
            if saving:
                self._at("saving", self.step)
                self._save(last)
            if totals.stop and self.step < recipe.train.steps:
                # No validation: there may be little time.
                self._say_stopping(totals.stop)
                reason = totals.stop
                break
            if self._validates_after(self.step):
                self._at("validation", self.step)
                self._validate()
        self.saver.wait()
        self._at("end", self.step)
        loader.close()
        return reason

    def _one_step(self, loader: Loader) -> Totals:
        start = time.perf_counter()
        self.owned()
        self._at("data")
        batch = loader.next()
        waited = time.perf_counter() - start
        self._at("gradients")
        loss = self.network.gradients(batch)
        loss = self.faults.change_gradients(self.step + 1, loss, self.network)
        self._at("totals")
        norm = self.network.optimizer.measure()
        totals = reduce_totals(loss, batch, self._wish(), self.grid, self.saver.news(), norm)
        lr = learning_rate(self.recipe, self.step + 1)
        # All ranks judge the same numbers, before any of them has changed a weight.
        action, why = self.guard.judge(totals.loss, totals.grad_norm) or ("", None)
        if action == "stop":
            self._stop_before(batch, totals, str(why))
        self._at("update")
        if why is None:
            self.saver.before_update()
            self.network.optimizer.update(lr, totals.grad_norm)
            self.faults.change_weights(self.step + 1, self.network)
        self.network.clear_gradients()  # now, so that the GPU does it while the host writes its records
        self.owned()  # this process may have slept since the step began
        before, self.step, self.position = self.position, self.step + 1, batch.after
        if self.watch:
            self.watch.done = self.step  # before the metrics say so, for a signal may come in between
        if self.samples:
            self.samples.write(self.step, before, batch.after, len(batch.rows), why is not None)
        if before.epoch < batch.after.epoch:
            self._forget_plans()
        seconds = time.perf_counter() - start
        if self.clock:
            self.clock.saw_step(seconds)
        self.reporter.step(self.step, totals, lr, seconds, waited, self.position, why)
        return totals

    def _forget_plans(self) -> None:
        """Remove the plans of epochs before the last one, which a restart may still read."""
        if self.grid.is_main and not self.recipe.data.plan_cache:
            self.corpora.train.forget(self.position.epoch - 1)

    def _stop_before(self, batch: StepBatch, totals: Totals, why: str) -> NoReturn:
        """Keep the batch that would have done harm, and stop; on all ranks alike."""
        step = self.step + 1
        path = kept_path(self.directory.path, step)

        def keep() -> None:
            if self.grid.is_main:
                self.owned()
                numbers = {"loss": totals.loss, "grad_norm": totals.grad_norm}
                about = {"step": step, "attempt": self.directory.attempt, **numbers, "why": why}
                keep_batch(path, self.corpora.train, batch.rows, about)

        self.grid.main_first(keep)
        self.saver.wait()  # a save in flight is of good steps
        raise GuardError(
            f"step {step}: {why}",
            where=f"{path} (show it with: octo inspect {self.directory.path} --step {step})",
            hint="weights, optimizer and checkpoints are as they were; lower the learning rate, look at the batch, or "
            "let such steps be skipped with guard.nonfinite=skip or guard.spike=skip, and start again",
        )

    def _wish(self) -> str | None:
        """Return why this rank wants to stop after this step, or None."""
        if self.stop.reason or self.clock is None:
            return self.stop.reason
        return WALL_CLOCK if self.clock.is_over(self._validates_after(self.step + 1)) else None

    def _say_stopping(self, why: str) -> None:
        kept = f"step {self.saved} is saved" if self.saved else "nothing is saved (checkpoint.interval is 0)"
        self.reporter.say(f"stopping after step {self.step} ({why}), {kept}; the same command goes on")

    def _validates_after(self, step: int) -> bool:
        return bool(self.recipe.eval.interval) and step % self.recipe.eval.interval == 0

    def _validate(self) -> None:
        start = time.perf_counter()
        with self.network.gathered():
            for name, stream in self.corpora.valid.items():
                loader = Loader(stream, self.recipe, self.grid, Position(), self.recipe.eval.steps)
                losses = []
                for _ in range(self.recipe.eval.steps):
                    batch = loader.next()
                    losses.append(reduce_totals(self.network.evaluate(batch), batch, None, self.grid).loss)
                loader.close()
                self.owned()
                self.reporter.validation(self.step, name, sum(losses) / len(losses))
        if self.clock:
            self.clock.saw_validation(time.perf_counter() - start)

    def _save(self, last: bool) -> None:
        position = {"epoch": self.position.epoch, "row": self.position.row}
        state = {"corpora": self.corpora.digest, "position": position, "guard": self.guard.state()}
        self.saver.save(self.step, last, {**state, "base": self._base} if self.recipe.lora else state)

    def _make_saver(self) -> Saver:
        def saved(step: int, seconds: float) -> None:
            self.saved = step
            self.owned()
            self.directory.write_state("running", self.step, steps=self.recipe.train.steps, saved=step)
            if self.clock:
                self.clock.saw_save(seconds)

        return Saver(
            self.directory.path,
            self.network,
            self.recipe,
            self.grid,
            tokenizer=self.corpora.tokenizer,
            attempt=self.directory.attempt,
            saved=saved,
            owned=lambda: self.owned(now=True),
            say=self.reporter.say,
            ends=self.corpora.train.ends,
        )
