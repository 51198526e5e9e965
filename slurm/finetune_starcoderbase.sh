#!/usr/bin/env bash
# Fine-tune StarCoderBase: 15.5B, TP 4 x PP 4, so 16 GPUs a replica and 4 replicas.
#
#   sbatch slurm/finetune_starcoderbase.sh                                    # from the project's root
#   sbatch slurm/finetune_starcoderbase.sh run_dir=runs/b train.seed=2        # with overrides of the recipe
#   sbatch --nodes=2 slurm/finetune_starcoderbase.sh                          # with another number of nodes
#   RECIPE=my.yaml sbatch slurm/finetune_starcoderbase.sh
#
# The job resumes by itself, until the training is finished: before the time limit or a preemption it saves and is queued
# again, after a fault it is queued again without the node that failed twice, after a node's death SLURM does it.
# Submitting again goes on, too: the state is in the run's directory. `python -m megatron_octo.submit status RUN` shows it.

#SBATCH --job-name=starcoderbase
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=20:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120

set -euo pipefail

# sbatch runs a copy of this file, so paths are relative to where it was submitted.
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"

: "${RECIPE:=recipes/starcoderbase_finetune.yaml}"
: "${OVERRIDES:=}"     # section.key=value ..., separated by spaces; the script's arguments are overrides, too
: "${MAX_RESTARTS:=3}"  # in a row that bring no new checkpoint
: "${SRUN_ARGS:=}"     # further arguments for srun, e.g. those of a container
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ ! -x .venv/bin/python ] || PYTHON=$PWD/.venv/bin/python
fi
read -ra overrides <<<"$OVERRIDES"
read -ra srun_args <<<"$SRUN_ARGS"

# This script runs on the job's first node, and so does rank 0.
read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Stops what brings no progress, avoids nodes that fail, finds a free port; without one the run is finished.
run=("$RECIPE" "${overrides[@]}" "$@")
MASTER_PORT=$("$PYTHON" -m megatron_octo.cluster.job_guard before "${run[@]}" --max-restarts "$MAX_RESTARTS")
[ -n "$MASTER_PORT" ] || exit 0
export MASTER_ADDR MASTER_PORT
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # since SLURM 22.05 srun no longer takes it from sbatch
export PYTHONUNBUFFERED=1

echo "job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}, $(date +%FT%T): $SLURM_JOB_NUM_NODES nodes" \
  "($SLURM_JOB_NODELIST), rendezvous $MASTER_ADDR:$MASTER_PORT, recipe $RECIPE ${overrides[*]} $*"

# Neighbouring ranks on one node (block): tensor parallelism needs the fast links. A rank that ends takes the others
# along after 60 s (wait), not at once (kill-on-bad-exit): they all end with 75 after saving, and srun would report
# the 143 of those that it killed. A step that SLURM cannot begin in five minutes fails (immediate). The last word is
# the guard's, after a SIGTERM, too: it says why this start ended, and queues the job again if that helps.
trap : TERM
code=0
srun --distribution=block --wait=60 --kill-on-bad-exit=0 --immediate=300 "${srun_args[@]}" \
  "$PYTHON" -m megatron_octo.train "${run[@]}" || code=$?
exec "$PYTHON" -m megatron_octo.cluster.job_guard after "${run[@]}" --max-restarts "$MAX_RESTARTS" --code "$code"
