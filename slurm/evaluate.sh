#!/usr/bin/env bash
# Score a model on HumanEvalPack, on one node or as an array of tasks with a part of the problems each.
#
#   sbatch slurm/evaluate.sh                                           # SantaCoderPack's export, all 30 tasks
#   MODEL=runs/a TASKS=humanevalfixtests-python sbatch --gpus=1 slurm/evaluate.sh --n-samples 20 --temperature 0.2
#   sbatch --array=0-7 --gpus=1 slurm/evaluate.sh                      # eight parts; their merge is queued after them
#
# A job that was killed or queued again continues: nothing is generated or run twice.

#SBATCH --job-name=evaluate
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue

set -euo pipefail

# sbatch runs a copy of this file, so paths are relative to the directory of the submission.
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"

: "${MODEL:=runs/santacoderpack/hf}"    # a Hugging Face directory, a run, or a checkpoint
: "${TASKS:=all}"                       # docs/evaluation.md lists them
: "${PROMPT:=octocoder}"
: "${DATA:=hf:bigcode/humanevalpack}"   # or a folder with the rows
: "${OUTPUT:=${MODEL%/hf}/evaluation}"
: "${STEP:=all}"                        # merge: combine the parts of an array's tasks
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ ! -x .venv/bin/python ] || PYTHON=$PWD/.venv/bin/python
fi
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # since SLURM 22.05 srun no longer takes it from sbatch
export PYTHONUNBUFFERED=1

evaluate() {
  srun --ntasks=1 "$PYTHON" -m megatron_octo.evaluate "$@"
}

if [ "$STEP" = merge ]; then
  echo "job $SLURM_JOB_ID, $(date +%FT%T): $PARTS parts to $OUTPUT"
  parts=()
  for ((part = 0; part < PARTS; part++)); do parts+=("$OUTPUT/parts/$part-of-$PARTS"); done
  evaluate merge "${parts[@]}" --output "$OUTPUT"
  evaluate report "$OUTPUT"
  exit
fi

where=$OUTPUT
part=()
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  number=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))
  where=$OUTPUT/parts/$number-of-$SLURM_ARRAY_TASK_COUNT
  part=(--part "$number/$SLURM_ARRAY_TASK_COUNT")
  # The first task queues the merge, on its first start only.
  if [ "$number" = 0 ] && [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
    # It has this job's partition and time limit. Without kill-on-invalid-dep it would wait forever for a failed task.
    # $0 is the copy of this script that is running.
    options=(--job-name="${SLURM_JOB_NAME:-evaluate}-merge" --output="%x-%j.log" --nodes=1 --ntasks=1 --cpus-per-task=1
      --dependency="afterok:$SLURM_ARRAY_JOB_ID" --kill-on-invalid-dep=yes --export=ALL)
    for option in partition account qos; do
      variable=SLURM_JOB_${option^^}
      [ -z "${!variable:-}" ] || options+=("--$option=${!variable}")
    done
    limit=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%l | tail -n 1)
    [ -z "$limit" ] || options+=(--time="$limit")
    [ -z "${SLURM_MEM_PER_NODE:-}" ] || options+=(--mem="$SLURM_MEM_PER_NODE")
    # This job's memory variables would conflict with those of the merge.
    export MODEL OUTPUT
    STEP=merge PARTS=$SLURM_ARRAY_TASK_COUNT env -u SLURM_MEM_PER_NODE -u SLURM_MEM_PER_CPU -u SLURM_MEM_PER_GPU \
      sbatch "${options[@]}" "$0"
  fi
fi

echo "job $SLURM_JOB_ID, $(date +%FT%T): $MODEL on $TASKS, to $where ${part[*]:-}"
evaluate run --model "$MODEL" --tasks "$TASKS" --prompt "$PROMPT" --data "$DATA" --output "$where" \
  ${part[@]+"${part[@]}"} "$@"
