#!/usr/bin/env bash
# Any weights to a Hugging Face model, verified: convert/to_hf.sh RUN OUT [OPTION ...]
# Started again after a kill it goes on, and it does not convert a second time what is there. With --push REPO the login
# is tried first, and what is not equal is not uploaded; the repository is private, unless --public says otherwise.
set -euo pipefail
(($# >= 2)) || { echo "usage: [TOLERANCE=T] $0 RUN OUT [--dtype D] [--tokenizer FILE] [--push REPO [--public]]" >&2; exit 2; }
"${PYTHON:-python}" -m megatron_octo.convert to-hf "$@" --verify ${TOLERANCE:+--tolerance "$TOLERANCE"}
