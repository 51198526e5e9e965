#!/usr/bin/env bash
# Pretrain SantaCoderPack: 1.1B, 131 billion tokens of CommitPack, one GPU per replica.
#
#   sbatch slurm/pretrain_santacoderpack.sh                                    # from the project's root
#   sbatch slurm/pretrain_santacoderpack.sh run_dir=runs/b train.seed=2        # with overrides of the recipe
#   sbatch --nodes=1 slurm/pretrain_santacoderpack.sh                          # on another number of nodes
#   RECIPE=my.yaml sbatch slurm/pretrain_santacoderpack.sh
#
# The job is queued again until the training is finished: before the time limit or a preemption it saves first; after a
# fault, nodes that failed twice are excluded; after a node failure SLURM queues it. Submitting again also continues the
# run, whose state is in its directory: `python -m megatron_octo.submit status RUN` shows it.

#SBATCH --job-name=santacoderpack
#SBATCH --nodes=4
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

# sbatch runs a copy of this file, so paths are relative to the directory of the submission.
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"

: "${RECIPE:=recipes/santacoderpack.yaml}"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ ! -x .venv/bin/python ] || PYTHON=$PWD/.venv/bin/python
fi
# The rest is the same for every training; it reads OVERRIDES, MAX_RESTARTS and SRUN_ARGS.
training=$("$PYTHON" -m megatron_octo.cluster.script)
eval "$training"
