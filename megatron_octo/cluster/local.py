"""The stages of a run on this machine, one after the other: what a chain of jobs does, without SLURM."""

import os
import subprocess

from megatron_octo.cluster.ledger import newest_checkpoint
from megatron_octo.cluster.stages import Command, Order, stage_of
from megatron_octo.errors import REQUEUE, USER_ERROR


def run_here(order: Order) -> int:
    """Run all stages; returns the exit code of the first that fails, or 0."""
    for name in order.stages:
        for command in stage_of(name).commands(order):
            if command.unless and command.unless.exists():
                print(f"# {name}: {command.unless} is there", flush=True)
                continue
            code = _train(order, command) if stage_of(name).ranks else _run(order, command, [])
            if code:
                return code
    return 0


def _train(order: Order, command: Command) -> int:
    """Start the training again after faults, as long as that brings new checkpoints."""
    fruitless = 0
    while True:
        before = newest_checkpoint(order.run)
        code = _run(order, command, ["--nproc", str(order.world)])
        if code in (0, USER_ERROR, REQUEUE):  # REQUEUE: somebody asked this training to stop
            return code
        fruitless = 0 if newest_checkpoint(order.run) > before else fruitless + 1
        if fruitless > order.profile.max_restarts:
            print(f"# giving up: {fruitless} starts in a row brought no new checkpoint", flush=True)
            return code
        print(f"# the training ended with {code}: starting it again", flush=True)


def _run(order: Order, command: Command, more: list[str]) -> int:
    words = [order.task_python, "-m", command.module, *command.words, *more]
    print(f"# {' '.join(words)}", flush=True)
    try:
        return subprocess.run(
            words, cwd=order.folder, env={**os.environ, **order.profile.environment}
        ).returncode
    except KeyboardInterrupt:
        return 130
