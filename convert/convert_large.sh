#!/usr/bin/env bash
# OctoPack's conversion of its 15.5B model in one command: any weights, for instance a checkpoint of BigCode's
# Megatron-LM, to a Hugging Face model, verified layer by layer.
#
#   convert/convert_large.sh models/starcoderbase-megatron models/starcoderbase-hf
#   PUSH=me/octocoder TOKENIZER=data/tokenizer.json convert/convert_large.sh runs/starcoderbase_finetune models/octocoder
#
# It takes 3 GiB of memory for any model, and disk space for the result. After a kill or a failed upload, the same command
# continues. PUSH checks the login first and uploads the verified model to a private repository (PUBLIC=1: a public one).
# Rounded weights change the logits: TOLERANCE is the difference to accept.
set -euo pipefail

(($# == 2)) || { echo "usage: [DTYPE=bf16] [TOKENIZER=FILE] [VOCAB_SIZE=N] [TOLERANCE=T] [PUSH=REPO [PUBLIC=1]] $0 WEIGHTS OUT" >&2; exit 2; }
: "${PYTHON:=python}"

options=(${DTYPE:+--dtype "$DTYPE"} ${TOKENIZER:+--tokenizer "$TOKENIZER"} ${VOCAB_SIZE:+--vocab-size "$VOCAB_SIZE"}
  ${PUSH:+--push "$PUSH"} ${PUBLIC:+--public})
"$PYTHON" -m megatron_octo.convert show "$1" ${VOCAB_SIZE:+--vocab-size "$VOCAB_SIZE"}
"$PYTHON" -m megatron_octo.convert to-hf "$1" "$2" "${options[@]}" --verify ${TOLERANCE:+--tolerance "$TOLERANCE"}
