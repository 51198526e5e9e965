#!/usr/bin/env bash
# Convert a Hugging Face model for a recipe's checkpoint.init_from: convert/from_hf.sh DIR OUT [OPTION ...]
set -euo pipefail
(($# >= 2)) || { echo "usage: $0 DIR OUT [--tensor N] [--pipeline N] [--dtype D]" >&2; exit 2; }
"${PYTHON:-python}" -m megatron_octo.convert from-hf "$@"
