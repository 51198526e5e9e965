"""The sbatch scripts of a run, as text: the same for the same order, so that they can be compared and run by hand.

A script holds no path of its run directory: it asks SLURM where its own file lies, so a run that was moved or copied
can be submitted again. ``python -m megatron_octo.cluster.script`` prints what the scripts of ``slurm/`` have in common.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.cluster.profile import Profile
from megatron_octo.cluster.stages import Command, Order, links, stage_of
from megatron_octo.common.quoting import check_plain, sbatch, shell

LOGS = "submit/logs"
_EXPORTS = """\
export PYTHONUNBUFFERED=1
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # since SLURM 22.05 srun no longer takes it from sbatch
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
"""
# Of the scripts of slurm/, which are configured by variables and arguments.
_VARIABLES = """\
: "${OVERRIDES:=}"      # section.key=value ..., separated by spaces; the script's arguments are overrides, too
: "${MAX_RESTARTS:=3}"  # in a row that bring no new checkpoint
: "${SRUN_ARGS:=}"      # further arguments for srun, such as those of a container
read -ra overrides <<<"$OVERRIDES"
read -ra srun_args <<<"$SRUN_ARGS"
run=("$RECIPE" "${overrides[@]}" "$@")
guard=("$PYTHON" -m megatron_octo.cluster.job_guard)
limits=(--max-restarts "$MAX_RESTARTS")
train=("${srun_args[@]}" "$PYTHON" -m megatron_octo.train)
"""
# Of every training. A rank that ends takes the others along after 60 s (wait), not at once (kill-on-bad-exit): after
# saving they all end with 75, and srun would report the 143 of those that it killed. A step that SLURM cannot begin in
# five minutes fails (immediate). The guard decides, after a SIGTERM, too.
_TRAINING = """\
read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")  # rank 0 runs where this script does
# Stops a job without progress, avoids nodes that fail, finds a free port; without one the run is finished.
MASTER_PORT=$("${guard[@]}" before "${run[@]}" "${limits[@]}")
[ -n "$MASTER_PORT" ] || exit 0
export MASTER_ADDR MASTER_PORT
echo "job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}, $(date +%FT%T): ${SLURM_JOB_NUM_NODES:-1} nodes" \\
  "($SLURM_JOB_NODELIST), rendezvous $MASTER_ADDR:$MASTER_PORT, recipe ${run[*]}"

# After the end of a rank the others have a minute to save; a step that cannot begin in five minutes fails. The guard
# records the end, after a SIGTERM, too, and queues the job again if that helps.
trap : TERM
code=0
@SCRATCH@srun --distribution=block --wait=60 --kill-on-bad-exit=0 --immediate=300 "${train[@]}" "${run[@]}" || code=$?
exec "${guard[@]}" after "${run[@]}" "${limits[@]}" --code "$code"
"""
_MAKE_SCRATCH = 'srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 mkdir -p "$TMPDIR"'


@dataclass(frozen=True)
class Job:
    """One link of a chain: the stage, and the file in the run directory that sbatch takes."""

    stage: str
    script: Path
    text: str

    @property
    def log(self) -> str:
        """The file for its output, with SLURM's patterns for the job's number."""
        run = self.script.parent if self.stage == "train" else self.script.parent.parent
        number = "%A_%a" if "#SBATCH --array" in self.text else "%j"
        return f"{str(run).replace('%', '%%')}/{LOGS}/{self.stage}-{number}.log"


def script_name(stage: str) -> str:
    """Return the path of a stage's script in the run; the training's is ``submit.sh``, to be submitted by hand, too."""
    return "submit.sh" if stage == "train" else f"submit/{stage}.sh"


def jobs_of(order: Order) -> list[Job]:
    """Return the links of the chain, each to start after the one before it succeeded."""
    names = [name for stage in order.stages for name in links(stage, order.array)]
    return [Job(name, order.run / script_name(name), script(name, order)) for name in names]


def code_path(order: Order) -> Path:
    """Return the library as it was when the run was submitted."""
    return order.run / "submit" / "code"


def script(stage: str, order: Order) -> str:
    """Return the sbatch script of a stage.

    Raises:
        OctoError: a name or a path would not stay on its line.
    """
    check_plain(order.run, "run_dir")
    check_plain(order.folder, "the current directory")
    purpose = stage_of(stage).purpose
    lines = ["#!/usr/bin/env bash", f"# {purpose}: made by python -m megatron_octo.submit"]
    lines += ["# Given to sbatch again, from any directory, it goes on where the run stands.", ""]
    lines += [*_header(stage, order), "", *_setup(stage, order)]
    body = _training(order) if stage_of(stage).ranks else _single(stage, order)
    return "\n".join([*lines, *body, ""])


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
        "gpus-per-node": profile.gpus_per_node if ranks else own.gpus_per_node,
        "cpus-per-task": own.cpus_per_task or profile.cpus_per_task,
        "mem": own.memory or (profile.memory if ranks else None),
        "exclusive": profile.exclusive and ranks,
        "time": own.time or profile.time,
        "signal": f"USR1@{profile.signal_seconds}" if ranks else None,
        "output": f"%x-{'%A_%a' if array else '%j'}.log",
        "open-mode": "append",
        "requeue": True,
        **profile.sbatch,
    }
    kept = {name: value for name, value in options.items() if value is not None and value is not False}
    return [f"#SBATCH --{name}" + ("" if value is True else f"={sbatch(value, name)}") for name, value in kept.items()]


def _setup(stage: str, order: Order) -> Iterator[str]:
    profile, own = order.profile, script_name(stage)
    number = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if stage == "preprocess" and order.array else "$SLURM_JOB_ID"
    yield "set -euo pipefail"
    yield f"cd {shell(order.folder)}"
    yield "# The run is where this file was given to sbatch, whatever it was called when it was written."
    yield f"recorded={shell(order.recipe.run_dir)}"
    yield "file="
    yield "for again in 1 2 3; do  # the controller may be busy"
    yield """  file=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p') && break || sleep $((5 * again))"""
    yield "done"
    yield f"case $file in */{own}) here=${{file%/{own}}} ;; *) here=$recorded ;; esac"
    yield '[ -d "$here/submit/code" ] || { echo "error: the run is not at $here: submit resume RUN" >&2; exit 2; }'
    yield 'here=$(cd -P -- "$here" >/dev/null && pwd)'
    yield f"log=$here/{LOGS}/{stage}-{number}.log"
    yield '[ /dev/stdout -ef "$log" ] || exec >>"$log" 2>&1'
    yield from _EXPORTS.splitlines()
    yield from profile.setup
    if profile.modules:
        yield f"set +u; module load {shlex.join(profile.modules)}; set -u  # its own scripts use unset variables"
    for name, value in profile.environment.items():
        yield f"export {name}={shell(value)}"
    if profile.scratch:
        # Not quoted: $USER and $SLURM_JOB_ID are meant to become what they are in the job.
        yield f'export TMPDIR="{profile.scratch}"'
        yield 'export TRITON_CACHE_DIR="$TMPDIR/triton" TORCHINDUCTOR_CACHE_DIR="$TMPDIR/inductor"'
    yield "# The code as it was when the run was submitted. The safe path: python -m would look into this folder first,"
    yield "# and here that code may be edited. Last, so that no line above undoes it."
    yield 'export PYTHONPATH="$here/submit/code${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1'
    yield ""


def _srun(order: Order) -> list[str]:
    return [*_container(order.profile), *order.profile.srun, order.task_python, "-m"]


def _container(profile: Profile) -> Iterator[str]:
    if container := profile.container:
        yield f"--container-image={container.image}"
        if container.mounts:
            yield f"--container-mounts={','.join(container.mounts)}"
        yield from container.options


def _word(word: str, order: Order) -> str:
    """Quote a word; a path in the run directory is written relative to it."""
    inside = word.removeprefix(str(order.run))
    is_path = inside != word and (not inside or inside.startswith("/"))
    return f'"$here"{shell(inside) if inside else ""}' if is_path else shell(word)


def _call(command: Command, order: Order) -> str:
    words = " ".join(_word(word, order) for word in [command.module, *command.words])
    if "preprocess" in command.module and "--workers" not in command.words:
        words += ' --workers "${SLURM_CPUS_PER_TASK:-1}"'
    if command.task:
        words += ' --task "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"'
    return words


def _single(stage: str, order: Order) -> Iterator[str]:
    if order.profile.scratch:
        yield _MAKE_SCRATCH
    for command in stage_of(stage).commands(order):
        yield f"{shlex.join(['srun', '--ntasks=1', *_srun(order)])} {_call(command, order)}"


def _training(order: Order) -> Iterator[str]:
    (command,) = stage_of("train").commands(order)
    profile = order.profile
    yield 'run=("$here/submit/recipe.yaml")'
    yield 'quoted=${here//\\\\/\\\\\\\\} quoted=${quoted//\\"/\\\\\\"}  # for YAML'
    yield '[ "$recorded" -ef "$here" ] || run+=("run_dir=\\"$quoted\\"")  # it was moved or copied'
    yield f"guard=({shlex.join([order.python, '-m', 'megatron_octo.cluster.job_guard'])})"
    yield f"limits=(--max-restarts {profile.max_restarts} --signal-seconds {profile.signal_seconds})"
    yield f"train=({shlex.join([*_srun(order), command.module])})"
    make = f'{_MAKE_SCRATCH} || code=$?\n[ "$code" != 0 ] || ' if profile.scratch else ""
    yield _TRAINING.replace("@SCRATCH@", make).rstrip()


if __name__ == "__main__":
    print(_VARIABLES + _EXPORTS + _TRAINING.replace("@SCRATCH@", ""))
