"""An attention library is taken if it computes the right thing, and the reason against it is said."""

import importlib.metadata
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_octo.model.attention import probe
from megatron_octo.recipe.schema import Recipe

GRADIENTS = ("query", "key", "value")  # wrong ones, of outputs that are right
LIBRARY = probe.Library("some-attention", "some", "2.0")


def test_the_reasons_against_it(make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(train={"precision": "bf16"})

    def fail(*_: Any) -> Any:
        raise RuntimeError("no engine\nand much more")

    def why_not(obstacle: Callable[[], str | None] = lambda: None) -> str | None:
        return LIBRARY.why_not(recipe.model, recipe.compute, fail, obstacle)

    assert not LIBRARY.installed and "not installed (pip install -e .[some])" in str(why_not())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.99")
    assert LIBRARY.installed and why_not(lambda: "the GPU is too old") == "the GPU is too old"
    complaint = "some-attention 1.99 (2.0 is needed) failed: RuntimeError: no engine"
    assert why_not(fail) == complaint
    monkeypatch.setattr(probe, "relative_error", fail)
    assert why_not() == complaint
    for error, text in ((0.5, "0.5"), (float("nan"), "nan")):
        monkeypatch.setattr(probe, "relative_error", lambda model, compute, attend, error=error: error)
        assert why_not() == f"some-attention 1.99 computes something else here: relative error {text}"
    monkeypatch.setattr(probe, "relative_error", lambda model, compute, attend: 0.004)
    assert why_not() is None


def attention(window: int | None, wrong: str = "") -> probe.Attend:
    def attend(query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, longest: int) -> Tensor:
        assert query.dtype == torch.bfloat16 and int(boundaries.diff().max()) <= longest
        outputs = []
        for start, end in itertools.pairwise(
            [0, len(query)] if wrong == "documents" else boundaries.tolist()
        ):
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
        assert probe.relative_error(recipe.model, recipe.compute, attention(window)) < probe.TOLERANCE / 2
    other = None if window else 8
    assert not probe.relative_error(recipe.model, recipe.compute, attention(other)) < 5 * probe.TOLERANCE
    if not window:
        assert (
            not probe.relative_error(recipe.model, recipe.compute, attention(window, wrong="documents"))
            < 5 * probe.TOLERANCE
        )
    for wrong in (*GRADIENTS, "nan"):
        assert (
            not probe.relative_error(recipe.model, recipe.compute, attention(window, wrong=wrong))
            < probe.TOLERANCE
        ), wrong


def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for on the GPU is made here."""
    randn, tensor = torch.randn, torch.tensor
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(torch, "Generator", lambda device: generator)
    monkeypatch.setattr(torch, "randn", lambda size, device, **rest: randn(size, **rest))
    monkeypatch.setattr(torch, "tensor", lambda data, dtype, device: tensor(data, dtype=dtype))
