#!/usr/bin/env bash
# OctoPack's conversion of its 15.5B model, in one command: a checkpoint of BigCode's Megatron-LM, or whatever else
# holds weights, to a Hugging Face model, verified layer by layer.
#
#   convert/convert_large.sh models/starcoderbase-megatron models/starcoderbase-hf
#   PUSH=me/octocoder TOKENIZER=data/tokenizer.json convert/convert_large.sh runs/starcoderbase_finetune models/octocoder
#
# It takes 3 GiB of memory for any model, and disk space for the result. Killed, it goes on when it is started again.
set -euo pipefail

(($# == 2)) || { echo "usage: [DTYPE=bf16] [TOKENIZER=FILE] [VOCAB_SIZE=N] [PUSH=REPO] $0 WEIGHTS OUT" >&2; exit 2; }
: "${PYTHON:=python}"

options=(${DTYPE:+--dtype "$DTYPE"} ${TOKENIZER:+--tokenizer "$TOKENIZER"} ${VOCAB_SIZE:+--vocab-size "$VOCAB_SIZE"})
"$PYTHON" -m megatron_octo.convert show "$1" ${VOCAB_SIZE:+--vocab-size "$VOCAB_SIZE"}
[ -e "$2/config.json" ] || "$PYTHON" -m megatron_octo.convert to-hf "$1" "$2" "${options[@]}"
# Rounded weights give other logits: say how much you accept.
"$PYTHON" -m megatron_octo.convert verify "$1" "$2" ${TOLERANCE:+--tolerance "$TOLERANCE"}
if [ -n "${PUSH:-}" ]; then
  hf upload "$PUSH" "$2" .
fi
