#!/usr/bin/env bash
# Any weights to a Hugging Face model, verified: convert/to_hf.sh RUN OUT [OPTION ...]
# Started again after a kill it goes on, and it does not convert a second time what is there.
set -euo pipefail
(($# >= 2)) || { echo "usage: $0 RUN OUT [--dtype D] [--tokenizer FILE]" >&2; exit 2; }
[ -e "$2/config.json" ] || python -m megatron_octo.convert to-hf "$@"
python -m megatron_octo.convert verify "$1" "$2" ${TOLERANCE:+--tolerance "$TOLERANCE"}
