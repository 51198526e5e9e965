#!/usr/bin/env bash
# Convert any weights to a Hugging Face model and verify it: convert/to_hf.sh RUN OUT [OPTION ...]
# After a kill the same command continues; a finished result is not converted again. --push REPO checks the login first and
# uploads only a verified model, to a private repository unless --public is given.
set -euo pipefail
(($# >= 2)) || { echo "usage: [TOLERANCE=T] $0 RUN OUT [--dtype D] [--tokenizer FILE] [--push REPO [--public]]" >&2; exit 2; }
"${PYTHON:-python}" -m megatron_octo.convert to-hf "$@" --verify ${TOLERANCE:+--tolerance "$TOLERANCE"}
