#!/usr/bin/env bash
# Convert a run to Hugging Face, and check that both compute the same logits. One task, no GPU.
#
#   sbatch slurm/convert.sh                                            # SantaCoderPack
#   RUN=runs/starcoderbase_finetune sbatch slurm/convert.sh

#SBATCH --job-name=convert
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue

set -euo pipefail

# sbatch runs a copy of this file, so paths are relative to the directory of the submission.
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"

: "${RUN:=runs/santacoderpack}"
: "${OUT:=$RUN/hf}"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ ! -x .venv/bin/python ] || PYTHON=$PWD/.venv/bin/python
fi
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # since SLURM 22.05 srun no longer takes it from sbatch
export PYTHONUNBUFFERED=1

echo "job $SLURM_JOB_ID, $(date +%FT%T): $RUN to $OUT"
# --renew converts only if the run has trained further than the existing result.
srun --ntasks=1 "$PYTHON" -m megatron_octo.convert to-hf "$RUN" "$OUT" --renew
srun --ntasks=1 "$PYTHON" -m megatron_octo.convert verify "$RUN" "$OUT" "$@"
