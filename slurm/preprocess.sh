#!/usr/bin/env bash
# Turn rows of text into an indexed data set, on one node or as an array of tasks.
#
#   FORMAT=text sbatch slurm/preprocess.sh --allow-special             # SantaCoderPack: bigcode/commitpack-subset-cf
#   sbatch slurm/preprocess.sh                                         # the same text from CommitPack's rows
#   INPUT='pairs.jsonl' FORMAT=finetune OUTPUT_PREFIX=data/finetune sbatch slurm/preprocess.sh
#   sbatch --cpus-per-task=64 slurm/preprocess.sh --input-key prompt   # more options of the command
#   sbatch --array=0-7 slurm/preprocess.sh                             # eight tasks; their merge is queued after them
#
# A job that was killed or queued again continues from its finished shards.

#SBATCH --job-name=preprocess
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=32
#SBATCH --time=20:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue

set -euo pipefail

# sbatch runs a copy of this file, so paths are relative to the directory of the submission.
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"

: "${INPUT:=data/commitpack/*.jsonl*}"  # files or patterns, separated by spaces
: "${FORMAT:=commits}"                  # docs/data.md lists them: commits, finetune, text, ...
: "${TOKENIZER:=data/tokenizer.json}"
: "${OUTPUT_PREFIX:=data/commitpack}"
: "${WORKERS:=${SLURM_CPUS_PER_TASK:-1}}"
: "${STEP:=all}"                        # merge: combine the shards of an array's tasks
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ ! -x .venv/bin/python ] || PYTHON=$PWD/.venv/bin/python
fi
# shellcheck disable=SC2206 # the patterns must expand
inputs=($INPUT)
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # since SLURM 22.05 srun no longer takes it from sbatch
export PYTHONUNBUFFERED=1

part=()
if [ "$STEP" = merge ]; then
  part=(--merge)
elif [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  part=(--task "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))/$SLURM_ARRAY_TASK_COUNT")
  # The first task queues the merge, on its first start only.
  if [ "$SLURM_ARRAY_TASK_ID" = "$SLURM_ARRAY_TASK_MIN" ] && [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
    # It has this job's partition and time limit. Without kill-on-invalid-dep it would wait forever for a failed task.
    # $0 is the copy of this script that is running.
    options=(--job-name="${SLURM_JOB_NAME:-preprocess}-merge" --output="%x-%j.log" --nodes=1 --ntasks=1 --cpus-per-task=1
      --dependency="afterok:$SLURM_ARRAY_JOB_ID" --kill-on-invalid-dep=yes --export=ALL)
    for option in partition account qos; do
      variable=SLURM_JOB_${option^^}
      [ -z "${!variable:-}" ] || options+=("--$option=${!variable}")
    done
    limit=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%l | tail -n 1)
    [ -z "$limit" ] || options+=(--time="$limit")
    [ -z "${SLURM_MEM_PER_NODE:-}" ] || options+=(--mem="$SLURM_MEM_PER_NODE")
    # This job's memory variables would conflict with those of the merge.
    STEP=merge env -u SLURM_MEM_PER_NODE -u SLURM_MEM_PER_CPU -u SLURM_MEM_PER_GPU sbatch "${options[@]}" "$0" "$@"
  fi
fi

echo "job $SLURM_JOB_ID, $(date +%FT%T): ${#inputs[@]} inputs, format $FORMAT, to $OUTPUT_PREFIX ${part[*]:-}"
srun --ntasks=1 "$PYTHON" -m megatron_octo.preprocess --input "${inputs[@]}" --format "$FORMAT" \
  --tokenizer "$TOKENIZER" --output-prefix "$OUTPUT_PREFIX" --workers "$WORKERS" ${part[@]+"${part[@]}"} "$@"
if [ "${part[0]:-}" != --task ]; then
  srun --ntasks=1 "$PYTHON" -m megatron_octo.inspect "$OUTPUT_PREFIX"
fi
