"""The check of an attention library finds wrong outputs and wrong gradients."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megatron_octo.model.attention.attention_check import Attend, relative_error
from megatron_octo.model.platform.optional_library import TOLERANCE
from megatron_octo.recipe.schema import Recipe

GRADIENTS = ("query", "key", "value")  # wrong ones, of outputs that are right


def attention(window: int | None, wrong: str = "") -> Attend:
    def attend(query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, longest: int) -> Tensor:
        assert query.dtype == torch.bfloat16 and int(boundaries.diff().max()) <= longest
        outputs = []
        for start, end in itertools.pairwise([0, len(query)] if wrong == "documents" else boundaries.tolist()):
            row, column = torch.arange(end - start)[:, None], torch.arange(end - start)[None, :]
            seen = (column <= row) & (column > row - (window or len(query)))
            q, k, v = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
            outputs.append(out[0].transpose(0, 1))
        found = torch.cat(outputs)
        if wrong == "nan":  # of the long document's first position
            found = found + torch.nan * (torch.arange(len(query)) == boundaries[1])[:, None, None]
        if wrong in GRADIENTS:
            part = (query, key, value)[GRADIENTS.index(wrong)].sum()
            found = found + 0.1 * (part - part.detach())
        return found

    return attend


@pytest.mark.parametrize("window", [None, 8])
def test_it_tells_right_from_wrong(
    window: int | None, make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_cpu(monkeypatch)
    model = {"architecture": "starcoder2", "rotary_base": 1e4, "sliding_window": window} if window else {}
    recipe = make_recipe(model=model, train={"precision": "bf16"})
    with torch.no_grad():  # as a conversion asks
        assert relative_error(recipe.model, recipe.compute, attention(window)) < TOLERANCE / 2
    other = None if window else 8
    assert not relative_error(recipe.model, recipe.compute, attention(other)) < 5 * TOLERANCE
    if not window:
        assert not relative_error(recipe.model, recipe.compute, attention(window, wrong="documents")) < 5 * TOLERANCE
    for wrong in (*GRADIENTS, "nan"):
        assert not relative_error(recipe.model, recipe.compute, attention(window, wrong=wrong)) < TOLERANCE, wrong


def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for on the GPU is made here."""
    randn, tensor = torch.randn, torch.tensor
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(torch, "Generator", lambda device: generator)
    monkeypatch.setattr(torch, "randn", lambda size, device, **rest: randn(size, **rest))
    monkeypatch.setattr(torch, "tensor", lambda data, dtype, device: tensor(data, dtype=dtype))
