#!/usr/bin/env bash
# Convert a checkpoint of BigCode's Megatron-LM for checkpoint.init_from: convert/from_bigcode.sh DIR OUT [OPTION ...]
set -euo pipefail
(($# >= 2)) || { echo "usage: $0 DIR OUT [--vocab-size N] [--tensor N] [--pipeline N] [--dtype D]" >&2; exit 2; }
"${PYTHON:-python}" -m megatron_octo.convert from-bigcode "$@"
