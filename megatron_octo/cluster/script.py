"""The sbatch scripts of a run, as text: the same for the same order, so that they can be compared and run by hand."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.cluster.profile import Profile
from megatron_octo.cluster.stages import Command, Order, stage_of

LOGS = "submit/logs"


@dataclass(frozen=True)
class Job:
    """One link of a chain: the stage, and the file in the run directory that sbatch takes."""

    stage: str
    script: Path
    text: str


def script_name(stage: str) -> str:
    """The training's script is ``submit.sh``: the one that a person submits again."""
    return "submit.sh" if stage == "train" else f"submit/{stage}.sh"


def jobs_of(order: Order) -> list[Job]:
    """The links of the chain, each to start after the one before it succeeded."""
    names = [name for stage in order.stages for name in _links(stage, order)]
    return [Job(name, order.run / script_name(name), script(name, order)) for name in names]


def _links(stage: str, order: Order) -> tuple[str, ...]:
    return ("preprocess", "merge") if stage == "preprocess" and order.array is not None else (stage,)


def code_path(order: Order) -> Path:
    """The library as it was when the run was submitted."""
    return order.run / "submit" / "code"


def script(stage: str, order: Order) -> str:
    """The sbatch script of a stage."""
    lines = ["#!/usr/bin/env bash", *_title(stage, order), *_header(stage, order), "", *_setup(order)]
    body = _training(order) if stage_of(stage).ranks else _single(stage, order)
    return "\n".join([*lines, *body, ""])


def _title(stage: str, order: Order) -> Iterator[str]:
    yield f"# {stage_of(stage).purpose}: made by python -m megatron_octo.submit"
    if stage == "train":
        yield "# It goes on where the run stands; to submit it again by hand:"
    yield f"#   sbatch {shlex.quote(str(order.run / script_name(stage)))}"
    yield ""


def _header(stage: str, order: Order) -> list[str]:
    profile, own = order.profile, order.profile.resources(stage)
    ranks, array = stage_of(stage).ranks, stage == "preprocess" and order.array is not None
    options: dict[str, object] = {
        "job-name": f"{order.run.name}-{stage}",
        "partition": own.partition or profile.partition,
        "account": profile.account,
        "qos": own.qos or profile.qos,
        "constraint": own.constraint or profile.constraint,
        "exclude": profile.exclude,
        "array": order.array if array else None,
        "nodes": profile.nodes if ranks else 1,
        "ntasks-per-node": profile.gpus_per_node if ranks else 1,
        "gpus-per-node": profile.gpus_per_node if ranks else None,
        "cpus-per-task": own.cpus_per_task or profile.cpus_per_task,
        "mem": own.memory or (profile.memory if ranks else None),
        "exclusive": profile.exclusive and ranks,
        "time": own.time or profile.time,
        "signal": f"USR1@{profile.signal_seconds}" if ranks else None,
        "output": order.run / LOGS / f"{stage}-{'%A_%a' if array else '%j'}.log",
        "open-mode": "append",
        "requeue": True,
        **profile.sbatch,
    }
    kept = {name: value for name, value in options.items() if value is not None and value is not False}
    return [
        f"#SBATCH --{name}" + ("" if value is True else f"={_word(value)}") for name, value in kept.items()
    ]


def _word(value: object) -> str:
    return shlex.quote(str(value))


def _setup(order: Order) -> Iterator[str]:
    profile = order.profile
    yield "set -euo pipefail"
    yield f"cd {_word(order.folder)}"
    yield "export PYTHONUNBUFFERED=1"
    yield "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # since SLURM 22.05 srun takes it from nobody else"
    yield "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}"
    yield from profile.setup
    if profile.modules:
        yield f"set +u; module load {shlex.join(profile.modules)}; set -u  # its own scripts use unset variables"
    for name, value in profile.environment.items():
        yield f"export {name}={_word(value)}"
    if profile.scratch:
        # Not quoted: $USER and $SLURM_JOB_ID are meant to become what they are in the job.
        yield f'export TMPDIR="{profile.scratch}"'
        yield 'export TRITON_CACHE_DIR="$TMPDIR/triton" TORCHINDUCTOR_CACHE_DIR="$TMPDIR/inductor"'
    yield "# The code as it was when the run was submitted, whatever became of it since. The safe path: python -m would"
    yield "# look into this folder first, and here that code may be edited. Last, so that no line above undoes it."
    yield f"export PYTHONPATH={_word(code_path(order))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1"
    yield ""


_MAKE_SCRATCH = 'srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 mkdir -p "$TMPDIR"'


def _srun(order: Order, *options: str) -> str:
    profile = order.profile
    return shlex.join(["srun", *options, *_container(profile), *profile.srun, order.task_python, "-m"])


def _container(profile: Profile) -> Iterator[str]:
    if container := profile.container:
        yield f"--container-image={container.image}"
        if container.mounts:
            yield f"--container-mounts={','.join(container.mounts)}"
        yield from container.options


def _call(command: Command) -> str:
    words = shlex.join([command.module, *command.words])
    if "preprocess" in command.module and "--workers" not in command.words:
        words += ' --workers "${SLURM_CPUS_PER_TASK:-1}"'
    if command.task:
        words += ' --task "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"'
    return words


def _single(stage: str, order: Order) -> Iterator[str]:
    if order.profile.scratch:
        yield _MAKE_SCRATCH
    for command in stage_of(stage).commands(order):
        yield f"{_srun(order, '--ntasks=1')} {_call(command)}"


def _training(order: Order) -> Iterator[str]:
    (command,) = stage_of("train").commands(order)
    guard = shlex.join([order.python, "-m", "megatron_octo.cluster.job_guard"])
    profile = order.profile
    most = f"--max-restarts {profile.max_restarts} --signal-seconds {profile.signal_seconds}"
    srun = _srun(order, "--distribution=block", "--wait=60", "--kill-on-bad-exit=0", "--immediate=300")
    yield f"recipe={_word(order.recipe_file)}"
    yield 'read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")  # rank 0 runs where this script does'
    yield "# Stops what brings no progress, avoids nodes that fail, finds a free port; without one the run is finished."
    yield f'MASTER_PORT=$({guard} before "$recipe" {most})'
    yield '[ -n "$MASTER_PORT" ] || exit 0'
    yield "export MASTER_ADDR MASTER_PORT"
    yield ""
    yield "# A rank that ends takes the others along after 60 s (wait), not at once: after saving they all end with 75,"
    yield "# and srun would report the 143 of those that it killed. A step that cannot begin in five minutes fails."
    yield "# The last word is the guard's, after a SIGTERM, too."
    yield "trap : TERM"
    yield "code=0"
    if profile.scratch:
        yield f"{_MAKE_SCRATCH} || code=$?"
        srun = f'[ "$code" != 0 ] || {srun}'
    yield f'{srun} {command.module} "$recipe" || code=$?'
    yield f'exec {guard} after "$recipe" {most} --code "$code"'
