"""Tiny models with a tokenizer of bytes, as Hugging Face directories."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    PreTrainedTokenizerFast,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

END = "<|endoftext|>"


def write_tokenizer(folder: Path) -> int:
    """Write a tokenizer whose tokens are bytes, and return its number of tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {END: 0, **{symbol: number for number, symbol in enumerate(alphabet, start=1)}}
    library = Tokenizer(models.BPE(vocabulary, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=library, eos_token=END, bos_token=END).save_pretrained(folder)
    return len(vocabulary)


def write_model(folder: Path, kind: str, seed: int = 0, window: int | None = None, size: int = 0) -> Path:
    """Write a model with random weights and its tokenizer.

    Args:
        folder: to make.
        kind: gpt_bigcode or starcoder2.
        seed: of the weights.
        window: of starcoder2's attention; None: none.
        size: of the vocabulary at least.
    """
    folder.mkdir(parents=True)
    size = max(size, write_tokenizer(folder))
    torch.manual_seed(seed)
    ends = {"eos_token_id": 0, "bos_token_id": 0}
    if kind == "gpt_bigcode":
        network = GPTBigCodeForCausalLM(
            GPTBigCodeConfig(vocab_size=size, n_positions=512, n_embd=64, n_layer=2, n_head=4, **ends)
        )
    else:
        config = Starcoder2Config(
            vocab_size=size,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            sliding_window=window,
            **ends,
        )
        network = Starcoder2ForCausalLM(config)
    for parameter in network.parameters():  # far from uniform, so that greedy choices are clear
        parameter.data.mul_(3.0)
    network.save_pretrained(folder)
    return folder
