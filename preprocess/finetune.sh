#!/usr/bin/env bash
# Turn pairs of inputs and outputs (jsonl or jsonl.gz) into an indexed data set with the loss on the outputs:
# preprocess/finetune.sh OUTPUT_PREFIX TOKENIZER FILE...
set -euo pipefail
(($# >= 3)) || { echo "usage: $0 OUTPUT_PREFIX TOKENIZER.json FILE.jsonl..." >&2; exit 2; }
python -m megatron_octo.preprocess --format finetune --output-prefix "$1" --tokenizer "$2" --input "${@:3}" \
  --workers "${WORKERS:-$(nproc)}"
python -m megatron_octo.inspect "$1"
