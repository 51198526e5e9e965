"""FlashAttention-4 without a GPU: what is asked of the library, with plain torch in its place, and when it is taken.

The stand-in keeps to the contract of flash-attn-4 4.0.0b36 (flash_attn/cute/interface.py): packed tokens or rows, a
left bound that does not count the position itself, and pairs of output and logarithms.
"""

import importlib.metadata
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_octo.common.errors import OctoError
from megatron_octo.model.platform.mcore import load_mcore
from megatron_octo.recipe.schema import Recipe
from tests.model.configs import check_beside_documents, check_in_the_fused_layers, given

asked: list[tuple[str, bool]] = []  # the function, and whether deterministic, of every call


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    causal: bool,
    window_size: tuple[int | None, int | None],
    deterministic: bool,
) -> tuple[Tensor, None]:
    asked.append(("varlen", deterministic))
    assert torch.equal(cu_seqlens_q, cu_seqlens_k) and cu_seqlens_q.dtype == torch.int32
    assert cu_seqlens_q[-1] == len(q) and int(cu_seqlens_q.diff().max()) <= max_seqlen_q == max_seqlen_k
    document_T = torch.repeat_interleave(torch.arange(cu_seqlens_q.numel() - 1), cu_seqlens_q.diff())
    same = document_T[:, None] == document_T[None, :]
    return attention(q, k, v, same & visible(len(q), causal, window_size), softmax_scale), None


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    softmax_scale: float,
    causal: bool,
    window_size: tuple[int | None, int | None],
    deterministic: bool,
) -> tuple[Tensor, None]:
    asked.append(("rows", deterministic))
    mask = visible(q.size(1), causal, window_size)
    return torch.stack([attention(*row, mask, softmax_scale) for row in zip(q, k, v, strict=True)]), None


def visible(tokens: int, causal: bool, window: tuple[int | None, int | None]) -> Tensor:
    left, right = window
    assert causal and right in (0, None)
    row, column = torch.arange(tokens)[:, None], torch.arange(tokens)[None, :]
    return (column <= row) & (row - column <= (tokens if left is None else left))


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    k, v = (part.repeat_interleave(q.size(1) // k.size(1), 1) for part in (k, v))
    weights = (torch.einsum("qhd,khd->hqk", q, k) * scale).masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    load_mcore()
    from megatron_octo.model.attention import flash4

    functions = SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func, flash_attn_func=flash_attn_func)
    monkeypatch.setattr(flash4, "_library", lambda: functions)
    asked.clear()


@pytest.mark.parametrize(
    ("groups", "window", "base"),
    [(1, None, None), (4, None, None), (2, None, 1e4), (2, 5, 1e4), (1, 1, None), (4, 39, 500.0)],
)
@pytest.mark.parametrize("boundaries", [[0, 40], [0, 13, 14, 30, 40]])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.usefixtures("stand_in")
def test_equals_attention_document_by_document(
    boundaries: list[int], groups: int, window: int | None, base: float | None, deterministic: bool
) -> None:
    from megatron_octo.model.attention.flash4 import Flash4Attention

    check_beside_documents(Flash4Attention, boundaries, groups, window, base, deterministic)
    assert asked == [("varlen", deterministic)]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.usefixtures("stand_in")
def test_in_the_fused_layers(deterministic: bool) -> None:
    """Whole rows go to the dense kernel, documents to the other one; the same comes out."""
    from megatron_octo.model.attention.flash4 import Flash4Attention

    check_in_the_fused_layers(Flash4Attention, "flash4", deterministic)
    assert asked == [("varlen", deterministic), ("rows", deterministic)]


def test_the_library_takes_what_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed: the arguments of the stand-in are the library's."""
    monkeypatch.setenv("FLASH_ATTENTION_ARCH", "sm_90")
    library = pytest.importorskip("flash_attn.cute", exc_type=ImportError)
    for mine in (flash_attn_varlen_func, flash_attn_func):
        theirs = inspect.signature(getattr(library, mine.__name__)).parameters
        assert inspect.signature(mine).parameters.keys() <= theirs.keys()


def choose(recipe: Recipe) -> Any:
    from megatron_octo.model.attention.backend import choose_backend

    return choose_backend(recipe.model, recipe.compute, torch.device("cuda"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU machine of which a test says what is installed."""
    load_mcore()
    from megatron_octo.model.attention import backend, flash4

    found = SimpleNamespace(engine=True, flash4="4.0", problem=None)

    def version(name: str) -> str:
        if not found.flash4:
            raise importlib.metadata.PackageNotFoundError(name)
        return str(found.flash4)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(backend, "using_transformer_engine", lambda: found.engine)
    monkeypatch.setattr(backend, "_transformer_engine", lambda model, compute: backend.Backend("te", "TE", True, None))
    torchs = backend.Backend("torch", "torch's", False, object)
    monkeypatch.setattr(backend, "_torch", lambda model, compute: torchs)
    monkeypatch.setattr(flash4, "_library", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(flash4, "relative_error", lambda model, compute, attend: 0.004)
    return found


def test_what_auto_takes(make_recipe: Callable[..., Recipe], machine: SimpleNamespace) -> None:
    from megatron_octo.model.attention.flash4 import Flash4Attention

    def recipe(layers: str = "auto", **model: Any) -> Recipe:
        return make_recipe(train={"precision": "bf16"}, model=model, system={"layers": layers})

    for engine in (True, False):
        machine.engine = engine
        assert choose(recipe()).core_attention is Flash4Attention
        assert str(choose(recipe())) == "FlashAttention-4 (flash-attn-4 4.0)"
    assert choose(recipe("mcore")).name == "flash4"
    machine.engine = True
    assert str(choose(recipe("mcore"))) == "TE"
    dropping = choose(recipe(attention_dropout=0.1))
    assert dropping.name == "te" and "not FlashAttention-4: flash-attn-4 has no dropout" in str(dropping)
    machine.flash4 = None
    assert str(choose(recipe())) == "TE"
    machine.engine = False
    assert str(choose(recipe())) == "torch's"


@pytest.mark.parametrize(
    ("capability", "precision", "words"),
    [((8, 0), "bf16", "no backward pass for sm_80"), ((9, 0), "fp32", "has no fp32")],
)
def test_reasons_are_reported(
    capability: tuple[int, int],
    precision: str,
    words: str,
    make_recipe: Callable[..., Recipe],
    machine: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert words in str(choose(make_recipe(train={"precision": precision})))
    with pytest.raises(OctoError, match=words):
        choose(make_recipe(train={"precision": precision}, system={"attention": "flash4"}))


def test_it_compiles_on_a_gpu_alone(make_recipe: Callable[..., Recipe]) -> None:
    load_mcore()
    from megatron_octo.model.attention.backend import choose_backend

    with pytest.raises(OctoError, match="FlashAttention-4 needs a GPU"):
        choose_backend(*given(make_recipe(system={"attention": "flash4"})), torch.device("cpu"))
