"""Combinations without fused attention on a GPU are refused before anything is built, also without a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from megatron_octo.common.errors import OctoError
from megatron_octo.model.platform.mcore import load_mcore
from megatron_octo.recipe.schema import Recipe
from tests.model.configs import given

WINDOW = {"architecture": "starcoder2", "rotary_base": 1e4, "sliding_window": 8}


@pytest.mark.parametrize(
    ("attention", "model", "precision", "words"),
    [
        ("te", {**WINDOW, "attention_dropout": 0.1}, "bf16", "both a sliding window and dropout"),
        ("torch", {**WINDOW, "attention_dropout": 0.1}, "bf16", "has no dropout"),
        ("torch", WINDOW, "fp32", "has no fp32"),
    ],
)
def test_refused(
    attention: str, model: dict[str, Any], precision: str, words: str, make_recipe: Callable[..., Recipe]
) -> None:
    load_mcore()
    from megatron_octo.model.attention.backend import choose_backend

    recipe = make_recipe(model=model, train={"precision": precision}, system={"attention": attention})
    with pytest.raises(OctoError, match=words):
        choose_backend(recipe.model, recipe.compute, torch.device("cuda"))


@pytest.mark.parametrize(("deterministic", "dropout"), [(True, 0.0), (True, 0.1), (False, 0.0)])
def test_deterministic_without_transformer_engine(
    deterministic: bool, dropout: float, make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Transformer Engine has no deterministic kernel, ``auto`` uses torch's and reports it."""
    load_mcore()
    from megatron_octo.model.attention import backend

    def fails(*_: Any) -> backend.Backend:
        raise backend.NoFusedAttentionError("it has none", where="system.attention")

    monkeypatch.setattr(backend, "using_transformer_engine", lambda: True)
    monkeypatch.setattr(backend, "_transformer_engine", fails)
    recipe = make_recipe(
        model={"attention_dropout": dropout},
        train={"precision": "bf16"},
        system={"deterministic": deterministic},
    )
    if deterministic and not dropout:
        found = backend.choose_backend(recipe.model, recipe.compute, torch.device("cuda"))
        assert "it has none" in str(found) and "flash" in str(found) and not found.transformer_engine
    else:
        with pytest.raises(OctoError, match="it has none"):
            backend.choose_backend(recipe.model, recipe.compute, torch.device("cuda"))


def test_without_any_library(make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's variable-length flash attention is the fallback; a torch without it ends the run."""
    load_mcore()
    from megatron_octo.model.attention import backend
    from megatron_octo.model.attention.packed_attention import FlashAttention

    recipe = make_recipe(train={"precision": "bf16"}, system={"attention": "torch"})
    monkeypatch.setattr(backend, "flash_available", lambda: True)
    chosen = backend.choose_backend(*given(recipe), torch.device("cuda"))
    assert (chosen.name, chosen.core_attention) == ("flash", FlashAttention)
    assert str(chosen) == "torch variable-length flash attention" and not chosen.transformer_engine
    monkeypatch.setattr(backend, "flash_available", lambda: False)
    with pytest.raises(OctoError, match="no variable-length flash attention"):
        backend.choose_backend(*given(recipe), torch.device("cuda"))


def test_what_a_cpu_takes(make_recipe: Callable[..., Recipe]) -> None:
    load_mcore()
    from megatron_octo.model.attention.backend import choose_backend
    from megatron_octo.model.attention.packed_attention import DocumentAttention

    backend = choose_backend(*given(make_recipe(model=WINDOW)), torch.device("cpu"))
    assert backend.core_attention is DocumentAttention and not backend.transformer_engine
    with pytest.raises(OctoError, match="needs a GPU"):
        choose_backend(*given(make_recipe(system={"attention": "te"})), torch.device("cpu"))
