#!/usr/bin/env bash
# Fine-tune StarCoderBase: 15.5B, TP 4 x PP 4, so 16 GPUs per replica and 4 replicas.
#
#   sbatch slurm/finetune_starcoderbase.sh                                    # from the project's root
#   sbatch slurm/finetune_starcoderbase.sh run_dir=runs/b train.seed=2        # with overrides of the recipe
#   sbatch --nodes=2 slurm/finetune_starcoderbase.sh                          # on another number of nodes
#   RECIPE=my.yaml sbatch slurm/finetune_starcoderbase.sh
#
# The job is queued again until the training is finished: before the time limit or a preemption it saves first; after a
# fault, nodes that failed twice are excluded; after a node failure SLURM queues it. Submitting again also continues the
# run, whose state is in its directory: `python -m megatron_octo.submit status RUN` shows it.

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

# sbatch runs a copy of this file, so paths are relative to the directory of the submission.
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"

: "${RECIPE:=recipes/starcoderbase_finetune.yaml}"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ ! -x .venv/bin/python ] || PYTHON=$PWD/.venv/bin/python
fi
# The rest is the same for every training; it reads OVERRIDES, MAX_RESTARTS and SRUN_ARGS.
training=$("$PYTHON" -m megatron_octo.cluster.script)
eval "$training"
