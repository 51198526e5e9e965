"""A converted model as its users run it: the whole network in transformers."""

from pathlib import Path

import torch


@torch.no_grad()
def hf_logits(directory: Path, tokens: torch.Tensor) -> torch.Tensor:
    """fp32 [tokens, vocabulary]."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    logits: torch.Tensor = model(tokens[None]).logits
    return logits[0]
