"""Llama, whose layers have other kinds of parts: the same logits in transformers, and its tensors back bit for bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_octo.conversion.proof.verify import verify
from megatron_octo.conversion.writers.to_hf import to_hf
from tests.architectures.variants import known
from tests.conversion.models import from_hf
from tests.distributed import run_forked

SIZES = {
    "vocab_size": 283,
    "initializer_range": 0.1,
    "max_position_embeddings": 48,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
}


@pytest.mark.parametrize("tied", [False, True])
def test_llama_both_ways(tied: bool, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    theirs = tmp_path / "theirs"
    model.save_pretrained(theirs)
    with known():
        from_hf(theirs, tmp_path / "ours")
        to_hf(tmp_path / "ours", tmp_path / "again")
        found = run_forked(verify, tmp_path / "ours", theirs)
    assert found.weights_equal and found.max_abs <= 1e-4 and found.argmax_agreement == 1.0
    before, after = load_file(theirs / "model.safetensors"), load_file(tmp_path / "again/model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
