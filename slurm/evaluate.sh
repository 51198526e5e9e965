#!/usr/bin/env bash
# Score a model on HumanEvalPack: eight tasks, each with an eighth of the problems and a GPU of its own, and a merge.
#
#   DATA=data/humanevalpack sbatch slurm/evaluate.sh                               # runs/starcoderbase_finetune/hf, all tasks
#   DATA=... MODEL=models/x TASKS='humanevalsynthesize-*' PROMPT=octocoder sbatch --array=0-3 slurm/evaluate.sh --n-samples 20
#
# What a killed task has not made is made by the next one of the same number; the last one that ends merges and reports.

#SBATCH --job-name=evaluate
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --array=0-7
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue

set -euo pipefail

# sbatch runs a copy of this file, so paths are relative to the directory of the submission.
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"

: "${MODEL:=runs/starcoderbase_finetune/hf}"
: "${DATA:=hf:bigcode/humanevalpack}"
: "${TASKS:=all}"
: "${PROMPT:=octocoder}"
: "${OUT:=$MODEL-evaluation}"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ ! -x .venv/bin/python ] || PYTHON=$PWD/.venv/bin/python
fi
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # since SLURM 22.05 srun no longer takes it from sbatch
export PYTHONUNBUFFERED=1

task=${SLURM_ARRAY_TASK_ID:-0}
count=${SLURM_ARRAY_TASK_COUNT:-1}
first=${SLURM_ARRAY_TASK_MIN:-0}
part=$((task - first))
echo "job $SLURM_JOB_ID, $(date +%FT%T): part $part of $count of $MODEL"
srun --ntasks=1 "$PYTHON" -m megatron_octo.evaluate run --model "$MODEL" --data "$DATA" --tasks "$TASKS" \
  --prompt "$PROMPT" --part "$part/$count" --output "$OUT/parts/$part" "$@"

# The last one to come here finds the marks of all.
touch "$OUT/parts/$part/done"
if [ "$(find "$OUT/parts" -mindepth 2 -maxdepth 2 -name done | wc -l)" -eq "$count" ]; then
  "$PYTHON" -m megatron_octo.evaluate merge "$OUT"/parts/* --output "$OUT/merged"
  "$PYTHON" -m megatron_octo.evaluate report "$OUT/merged"
fi
