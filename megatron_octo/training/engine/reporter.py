"""Records of steps: metrics.jsonl, TensorBoard, Weights & Biases, and log lines with an ETA."""

import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import IO, Any, cast

import torch
import xxhash

from megatron_octo.common.errors import OctoError
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.attempts import METRICS, VALIDATION
from megatron_octo.runfiles.run_directory import RunDirectory
from megatron_octo.sizing.flops import FORMULA, LORA_FORMULA, peak_flops, training_flops
from megatron_octo.training.engine.metrics import Totals

_BOARD_SECONDS = 20  # between TensorBoard's writes; a kill loses the rest


def _finite(value: float) -> float | None:
    # JSON has no infinity and no NaN.
    return value if math.isfinite(value) else None


def _mean(records: list[dict[str, Any]], key: str) -> float:
    """Return the mean of the finite values of a key; NaN if there are none."""
    values = [record[key] for record in records if record[key] is not None]
    return math.fsum(values) / len(values) if values else math.nan


class Reporter:
    """Writes metrics and log lines; does nothing except on rank 0."""

    def __init__(self, recipe: Recipe, grid: Grid, run: RunDirectory):
        self._recipe, self._grid, self._active = recipe, grid, grid.is_main
        self._positions = recipe.batch.global_size * recipe.data.seq_length
        self._peak = peak_flops(torch.cuda.get_device_name(grid.device)) if grid.device.type == "cuda" else None
        self._attempt, self._path = run.attempt, run.path
        self._started: float | None = None
        self._first_step = 0
        self._recent: list[dict[str, Any]] = []  # records since the last line
        self._count = 0  # records of all attempts, for Weights & Biases
        self._jsonl: IO[str] | None = None
        self._log: IO[str] | None = None
        self._board: Any = None
        self._wandb: Any = None
        self._bar: Any = None
        if self._active:
            self._open(run.path)

    def _open(self, path: Path) -> None:
        self._jsonl = open(path / METRICS, "a", encoding="utf-8")  # noqa: SIM115 - open for the life of the run
        self._log = open(path / "logs" / f"attempt-{self._attempt:03d}.log", "a", encoding="utf-8")  # noqa: SIM115
        if self._recipe.log.wandb_project and not importlib.util.find_spec("wandb"):
            raise OctoError("wandb is not installed", where="log.wandb_project", hint="pip install -e .[wandb]")
        if sys.stderr.isatty():
            from rich.progress import Progress, TextColumn
            from rich.table import Column

            text = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis"))
            self._bar = Progress(text)
            self._bar.add_task("", total=self._recipe.train.steps)
            self._bar.start()

    def open_boards(self, step: int) -> None:
        """Open TensorBoard and Weights & Biases for a run that goes on after ``step``."""
        if not self._active:
            return
        log = self._recipe.log
        if log.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # Steps that an earlier attempt did and did not save are hidden: they come again.
            folder = str(self._path / "tensorboard")
            self._board = SummaryWriter(folder, purge_step=step + 1, flush_secs=_BOARD_SECONDS)
        if log.wandb_project:
            import wandb

            # Steps that are computed again are recorded again, and Weights & Biases takes no step twice: its own counts
            # records, and "step" is the axis.
            with open(self._path / METRICS, "rb") as file:
                self._count = sum(1 for _ in file)
            self._wandb = wandb.init(
                project=log.wandb_project,
                dir=str(self._path),
                name=self._path.name,
                # All attempts are one run there, too.
                id=xxhash.xxh64_hexdigest(str(self._path.absolute()).encode()),
                resume="allow",
                config=self._recipe.model_dump(),
                # Nodes often have no network, and a run must not wait.
                mode=cast(Any, os.environ.get("WANDB_MODE", "offline")),
            )
            self._wandb.define_metric("step")
            self._wandb.define_metric("*", step_metric="step")

    def say(self, text: str) -> None:
        """Print a line on the terminal and in the attempt's log."""
        if not self._active:
            return
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)
        if self._log:
            print(text, file=self._log, flush=True)

    def log_formula(self) -> None:
        """Write into the attempt's log how FLOPs and MFU are counted."""
        if self._log:
            print(f"{FORMULA}; {LORA_FORMULA}" if self._recipe.lora else FORMULA, file=self._log, flush=True)
        if self._peak:
            self.say(f"MFU = FLOPs / (step time * GPUs * {self._peak / 1e12:.0f} TFLOP/s), the GPU's dense bf16 peak")

    def step(
        self,
        step: int,
        totals: Totals,
        lr: float,
        seconds: float,
        data_seconds: float,
        row: Any,
        skipped: str | None = None,
    ) -> None:
        """Record one training step.

        Args:
            step: its number.
            totals: sums over all ranks.
            lr: learning rate.
            seconds: wall time of the whole step.
            data_seconds: of that, waiting for data.
            row: Position in the data after the step.
            skipped: why the step did not change the weights.
        """
        if not self._active:
            return
        flops = training_flops(self._recipe.model, self._positions, totals.squared_lengths, self._recipe.lora)
        per_gpu = flops / seconds / self._grid.world
        record = {
            "step": step,
            "loss": _finite(totals.loss),
            "grad_norm": _finite(totals.grad_norm),
            "lr": lr,
            "tokens_per_s": self._positions / seconds,
            "tflops_per_gpu": per_gpu / 1e12,
            "mfu": per_gpu / self._peak if self._peak else None,
            "fill": totals.used / self._positions,
            "targets": totals.targets,
            "step_s": seconds,
            "data_s": data_seconds,
            "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if self._grid.device.type == "cuda" else None,
            "epoch": row.epoch,
            "row": row.row,
            "attempt": self._attempt,
            **({"skipped": skipped} if skipped else {}),
        }
        self._write(record)
        self._recent.append({**record, "flops": flops})
        if self._started is None:
            # The first step of an attempt warms up; the ETA is counted from its end.
            self._started, self._first_step = time.monotonic(), step
        if skipped:
            self.say(f"step {step}/{self._recipe.train.steps} | skipped, weights stay as they are: {skipped}")
        elif step % self._recipe.log.interval == 0 or step == self._recipe.train.steps:
            self._show(step, lr)
            self._recent.clear()

    def _write(self, record: dict[str, Any]) -> None:
        assert self._jsonl is not None
        self._count += 1
        self._jsonl.write(json.dumps(record) + "\n")
        self._jsonl.flush()
        numbers = {key: value for key, value in record.items() if key not in ("step", "skipped") and value is not None}
        if self._board:
            for key, value in numbers.items():
                self._board.add_scalar(f"train/{key}", value, record["step"])
        if self._wandb:
            values = {f"train/{key}": value for key, value in numbers.items()}
            self._wandb.log({**values, "step": record["step"]}, step=self._count)

    def _show(self, step: int, lr: float) -> None:
        """Print means over the steps since the last line; step, loss and ETA come first, for narrow terminals."""
        steps, recent = self._recipe.train.steps, self._recent
        done = step - self._first_step
        eta = "?"
        if done and self._started is not None:
            left = int((time.monotonic() - self._started) / done * (steps - step))
            eta = f"{left // 3600}:{left % 3600 // 60:02d}:{left % 60:02d}"
        seconds = sum(record["step_s"] for record in recent)
        per_rank = sum(record["flops"] for record in recent) / seconds / self._grid.world
        mfu = f" | MFU {per_rank / self._peak:.1%}" if self._peak else ""
        text = (
            f"loss {_mean(recent, 'loss'):.4f} | ETA {eta} | {self._positions * len(recent) / seconds:,.0f} tokens/s"
            f" | {per_rank / 1e12:.3g} TFLOP/s/rank{mfu} | grad {_mean(recent, 'grad_norm'):.3f} | lr {lr:.2e}"
            f" | fill {_mean(recent, 'fill'):.2%} | data {sum(r['data_s'] for r in recent) / seconds:.1%}"
        )
        text = f"step {step}/{steps} | {text}"
        if not self._bar:
            self.say(text)
            return
        self._bar.update(self._bar.task_ids[0], completed=step, description=text)
        if self._log:
            print(text, file=self._log, flush=True)

    def validation(self, step: int, name: str, loss: float) -> None:
        """Record the mean loss of a validation after a step."""
        self.say(f"step {step} | {name} loss {loss:.4f}")
        if self._active:
            with open(self._path / VALIDATION, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "name": name, "loss": loss, "attempt": self._attempt}) + "\n")
            if self._board:
                self._board.add_scalar(f"{name}/loss", loss, step)
            if self._wandb:
                self._wandb.log({f"{name}/loss": loss, "step": step}, step=self._count)

    def close(self) -> None:
        """Close all files and boards."""
        for part in (self._jsonl, self._log, self._board):
            if part:
                part.close()
        if self._wandb:
            self._wandb.finish()
        if self._bar:
            self._bar.stop()
