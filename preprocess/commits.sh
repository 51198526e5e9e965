#!/usr/bin/env bash
# Turn CommitPack rows (jsonl or jsonl.gz) into an indexed data set: preprocess/commits.sh OUTPUT_PREFIX TOKENIZER FILE...
set -euo pipefail
(($# >= 3)) || { echo "usage: $0 OUTPUT_PREFIX TOKENIZER.json FILE.jsonl..." >&2; exit 2; }
python -m megatron_octo.preprocess --format commits --output-prefix "$1" --tokenizer "$2" --input "${@:3}" \
  --workers "${WORKERS:-$(nproc)}"
python -m megatron_octo.inspect "$1"
