"""Behaviour of every architecture: both directions equal transformers' models bit for bit, and so do the logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megatron_octo.architectures import architectures
from megatron_octo.conversion.proof.verify import verify
from megatron_octo.conversion.writers.to_hf import to_hf
from megatron_octo.convert import main
from tests.conversion.models import from_hf
from tests.data.conftest import train_tokenizer
from tests.distributed import run_forked

SIZES = {"vocab_size": 283, "initializer_range": 0.1}
BIGCODE = {**SIZES, "n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 96}
STARCODER2 = {
    **SIZES,
    "max_position_embeddings": 48,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
}
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "bigcode": (
        "GPTBigCode",
        BIGCODE,
        {"num_query_groups": 1, "tied_embeddings": True, "activation": "gelu_tanh"},
    ),
    "bigcode-gelu": ("GPTBigCode", {**BIGCODE, "activation_function": "gelu"}, {"activation": "gelu"}),
    "bigcode-heads": ("GPTBigCode", {**BIGCODE, "multi_query": False}, {"num_query_groups": 4}),
    "starcoder2": (
        "Starcoder2",
        {**STARCODER2, "sliding_window": 8},
        {"num_query_groups": 2, "sliding_window": 8, "rotary_base": 5000.0},
    ),
    "starcoder2-untied": (
        "Starcoder2",
        {**STARCODER2, "num_key_value_heads": 4, "tie_word_embeddings": False},
        {"num_query_groups": 4, "sliding_window": None, "tied_embeddings": False},
    ),
    "bigcode-untied": ("GPTBigCode", {**BIGCODE, "tie_word_embeddings": False}, {"tied_embeddings": False}),
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A random model as transformers saves it, biases and norms included, and what its recipe has to say."""
    import transformers

    family, settings, section = VARIANTS[request.param]
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs", section


@pytest.mark.slow
def test_both_directions(variant: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    import transformers

    theirs, section = variant
    model = from_hf(theirs, tmp_path / "ours")
    assert section.items() <= model.model_dump().items()
    assert model.padded_vocab_size == 384
    to_hf(tmp_path / "ours", tmp_path / "again")
    before, after = load_file(theirs / "model.safetensors"), load_file(tmp_path / "again/model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert from_hf(tmp_path / "again", tmp_path / "twice") == model

    found = run_forked(verify, tmp_path / "ours", theirs)
    assert found.weights_equal and found.max_abs <= 1e-4 and found.argmax_agreement == 1.0

    hf_class = getattr(transformers, architectures()[model.architecture].hf_class)
    loaded, info = hf_class.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    original, written = transformers.AutoConfig.from_pretrained(theirs), loaded.config
    free = {"_name_or_path", "transformers_version", "bos_token_id", "eos_token_id"}
    for key in original.to_dict().keys() - free:
        assert getattr(written, key) == getattr(original, key), key
    assert loaded.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=3, do_sample=False).shape == (1, 6)


def test_generation_ends_where_a_document_does(variant: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    import transformers

    # The end of a document is no special id: 2 here, and neither 0 nor GPT-2's 50256.
    tokenizer = train_tokenizer(tmp_path / "tokenizer.json", ["<fim_prefix>", "<fim_middle>", "<|endoftext|>"])
    from_hf(variant[0], tmp_path / "ours")
    to_hf(tmp_path / "ours", tmp_path / "again", tokenizer=tokenizer)
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "again")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "again")
    for found in (settings, config):
        assert (found.bos_token_id, found.eos_token_id) == (2, 2)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "again").eos_token_id == 2


def test_without_a_tokenizer_generation_ends_as_it_did(variant: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Straight, and through checkpoints: what ended a text there ends it here."""
    import transformers

    theirs = variant[0]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(theirs)
    # Whatever is generated next is made to be an end: a text ends after one token.
    following = int(loaded(torch.tensor([[1, 2, 3]])).logits[0, -1].argmax())
    config = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps({**config, "bos_token_id": 4, "eos_token_id": 7}))
    settings = {"eos_token_id": [7, following], "pad_token_id": 5}
    (theirs / "generation_config.json").write_text(json.dumps(settings))
    from_hf(theirs, tmp_path / "ours")
    assert main(["reshard", str(tmp_path / "ours"), str(tmp_path / "sharded"), "--tensor", "2"]) == 0
    for number, source in enumerate((theirs, tmp_path / "ours", tmp_path / "sharded")):
        out = tmp_path / f"out-{number}"
        to_hf(source, out)
        found = transformers.GenerationConfig.from_pretrained(out)
        assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (4, [7, following], 5)
        again = transformers.AutoModelForCausalLM.from_pretrained(out)
        assert (again.config.bos_token_id, again.config.eos_token_id) == (4, [7, following])
        text = again.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=9, do_sample=False)
        assert text.tolist() == [[1, 2, 3, following]]
    # Ids that the vocabulary has not are transformers' defaults, and end nothing.
    (theirs / "config.json").write_text(json.dumps({**config, "bos_token_id": 50256, "eos_token_id": 50256}))
    (theirs / "generation_config.json").unlink()
    to_hf(theirs, tmp_path / "last")
    config = json.loads((tmp_path / "last/config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (None, None)
