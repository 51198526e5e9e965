"""cuDNN's attention without a GPU: what is asked of the library, with plain torch in its place, and when it is taken.

The stand-in keeps to the contract of nvidia-cudnn-frontend 1.32 (cudnn/sdpa/fwd/torch_op.py): its schemas, packed
tokens, a left bound that counts the position itself, and a backward pass that takes padded logarithms.
"""

import importlib.metadata
import itertools
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_octo.common.errors import OctoError
from megatron_octo.model.platform.mcore import load_mcore
from megatron_octo.recipe.schema import Recipe
from tests.model.configs import check_beside_documents, check_in_the_fused_layers

MASK = (
    "bool is_causal=False, bool causal_bottom_right=False, "
    "int window_left=-1, int window_right=-1, Tensor? sinks=None"
)
PACKED = "Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_kv=None, int max_seqlen_q=0, int max_seqlen_kv=0"
FORWARD = (
    f"sdpa_fwd(Tensor q, Tensor k, Tensor v, float attn_scale, {MASK}, "
    f"Tensor? seq_len_q=None, Tensor? seq_len_kv=None, {PACKED}, bool return_lse=True) -> (Tensor, Tensor)"
)
BACKWARD = (
    "sdpa_bwd(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, float attn_scale, "
    f"{MASK}, {PACKED}, bool is_deterministic=False) -> (Tensor, Tensor, Tensor)"
)


def visible(options: dict[str, Any], tokens: int) -> Tensor:
    """[tokens, tokens] of queries and keys, after a look at what was asked for."""
    boundaries, longest = options["cu_seqlens_q"], options["max_seqlen_q"]
    assert torch.equal(boundaries, options["cu_seqlens_kv"]) and longest == options["max_seqlen_kv"]
    assert boundaries.dtype == torch.int32 and boundaries[-1] == tokens
    assert (boundaries.numel() - 1) % 32 == 0 and int(boundaries.diff().max()) <= longest
    assert options["is_causal"] and options.get("sinks") is None and options.get("window_right", -1) == -1
    document_T = torch.repeat_interleave(torch.arange(boundaries.numel() - 1), boundaries.diff())
    row, column = torch.arange(tokens)[:, None], torch.arange(tokens)[None, :]
    mask = (document_T[:, None] == document_T[None, :]) & (column <= row)
    left = options["window_left"]
    return mask & (column > row - left) if left >= 0 else mask


def scores(query: Tensor, key: Tensor, scale: float, mask: Tensor) -> Tensor:
    shared = query.size(1) // key.size(1)
    products = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(shared, 1)) * scale
    return products.masked_fill(~mask, float("-inf"))


def forward(query: Tensor, key: Tensor, value: Tensor, scale: float, *rest: Any) -> tuple[Tensor, Tensor]:
    options = named(FORWARD, 4, rest)
    assert options["return_lse"] and options["seq_len_q"] is None and options["seq_len_kv"] is None
    logits = scores(query, key, scale, visible(options, len(query)))
    values = value.repeat_interleave(query.size(1) // value.size(1), 1)
    out = torch.einsum("hqk,khd->qhd", logits.softmax(-1), values).contiguous()
    return out, logits.logsumexp(-1).t()[..., None].contiguous()


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    options = named(BACKWARD, 7, rest)
    asked.append(options["is_deterministic"])
    tokens, heads, dim = query.shape
    groups, boundaries = key.size(1), options["cu_seqlens_q"]
    assert lse.dtype == torch.float32
    assert lse.shape == (boundaries.numel() - 1, heads, options["max_seqlen_q"], 1)
    spans = enumerate(itertools.pairwise(boundaries.tolist()))
    lse_HT = torch.cat([lse[number, :, : end - start, 0] for number, (start, end) in spans], dim=1)
    weights = torch.exp(scores(query, key, scale, visible(options, tokens)) - lse_HT[..., None])
    keys, values = (part.repeat_interleave(heads // groups, 1) for part in (key, value))
    inner = (grad * out).sum(-1).t()[..., None]
    slopes = weights * (torch.einsum("qhd,khd->hqk", grad, values) - inner) * scale
    grad_key, grad_value = (
        torch.einsum("hqk,qhd->khd", left, right).view(tokens, groups, -1, dim).sum(2)
        for left, right in ((slopes, query), (weights, grad))
    )
    return torch.einsum("hqk,khd->qhd", slopes, keys).contiguous(), grad_key, grad_value


def padded(lse_TH: Tensor, boundaries: Tensor, longest: int) -> Tensor:
    found = torch.zeros(boundaries.numel() - 1, lse_TH.size(1), longest, 1)
    for number, (start, end) in enumerate(itertools.pairwise(boundaries.tolist())):
        found[number, :, : end - start, 0] = lse_TH[start:end].t()
    return found


def named(schema: str, positional: int, rest: tuple[Any, ...]) -> dict[str, Any]:
    """All arguments behind the first ones by name: the dispatcher hands them over by place, without defaults."""
    arguments = torch._C.parse_schema(f"cudnn::{schema}").arguments[positional:]
    given = dict(zip((argument.name for argument in arguments), rest))
    return {**{a.name: a.default_value for a in arguments}, **given}


asked: list[bool] = []  # is_deterministic of every backward pass


@pytest.fixture(scope="module")
def operations() -> Iterator[SimpleNamespace]:
    with torch.library._scoped_library("cudnn", "FRAGMENT") as library:
        for schema, function in ((FORWARD, forward), (BACKWARD, backward)):
            library.define(schema)
            library.impl(schema.partition("(")[0], function, "CPU")
        yield SimpleNamespace(thd_lse_to_padded=padded)


@pytest.fixture
def stand_in(operations: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    load_mcore()
    from megatron_octo.model.attention import cudnn

    monkeypatch.setattr(cudnn, "_operations", lambda: operations)


@pytest.mark.parametrize(
    ("groups", "window", "base"),
    [
        (1, None, None),
        (4, None, None),
        (2, None, 1e4),
        (2, 5, 1e4),
        (1, 1, None),
        (4, 39, 500.0),
        (1, 64, None),
    ],
)
@pytest.mark.parametrize("boundaries", [[0, 40], [0, 13, 14, 30, 40], list(range(41))])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.usefixtures("stand_in")
def test_equals_attention_document_by_document(
    boundaries: list[int], groups: int, window: int | None, base: float | None, deterministic: bool
) -> None:
    from megatron_octo.model.attention.cudnn import CudnnAttention

    asked.clear()
    check_beside_documents(CudnnAttention, boundaries, groups, window, base, deterministic)
    assert asked == [deterministic]


@pytest.mark.usefixtures("stand_in")
def test_in_the_fused_layers() -> None:
    from megatron_octo.model.attention.cudnn import CudnnAttention

    check_in_the_fused_layers(CudnnAttention, "cudnn")


@pytest.mark.parametrize(("documents", "filled"), [(1, 32), (31, 32), (32, 32), (33, 64), (96, 96)])
def test_empty_documents_fill_up(documents: int, filled: int) -> None:
    load_mcore()
    from megatron_octo.model.attention.cudnn import with_empty_documents

    boundaries = torch.arange(0, 3 * documents + 1, 3, dtype=torch.int32)
    found = with_empty_documents(boundaries)
    assert found.dtype == torch.int32 and found.numel() == filled + 1
    assert torch.equal(found[: documents + 1], boundaries) and (found[documents:] == 3 * documents).all()


def choose(recipe: Recipe) -> Any:
    from megatron_octo.model.attention.backend import choose_backend

    return choose_backend(recipe.model, recipe.compute, torch.device("cuda"))


def test_chosen_where_it_runs(make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    load_mcore()
    from megatron_octo.model.attention import backend, cudnn
    from megatron_octo.model.attention import packed as attention

    recipe = make_recipe(train={"precision": "bf16"}, system={"attention": "torch"})
    monkeypatch.setattr(cudnn, "why_not", lambda model, compute: None)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.99")
    chosen = choose(recipe)
    assert chosen.core_attention is cudnn.CudnnAttention and not chosen.transformer_engine
    assert "attention through nvidia-cudnn-frontend 1.99" in str(chosen)
    # Not in silence: flash comes with the reason, and without it the run ends with both.
    monkeypatch.setattr(cudnn, "why_not", lambda model, compute: "the GPU is too old")
    monkeypatch.setattr(backend, "flash_available", lambda: True)
    chosen = choose(recipe)
    assert chosen.core_attention is attention.FlashAttention
    assert "flash" in str(chosen) and str(chosen).endswith("the GPU is too old")
    monkeypatch.setattr(backend, "flash_available", lambda: False)
    with pytest.raises(OctoError, match=r"no variable-length flash.*the GPU is too old"):
        choose(recipe)
    dropping = make_recipe(
        train={"precision": "bf16"}, system={"attention": "torch"}, model={"attention_dropout": 0.1}
    )
    with pytest.raises(OctoError, match="has no dropout"):
        choose(dropping)


def test_determinism_must_not_take_all_memory(
    make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_mcore()
    from megatron_octo.model.attention import cudnn, probe

    limit = "CUDNN_FRONTEND_ATTN_DP_WORKSPACE_LIMIT"
    monkeypatch.setenv(limit, "-1")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.32.0")
    monkeypatch.setattr(cudnn, "_operations", lambda: None)
    monkeypatch.setattr(probe, "relative_error", lambda model, compute, attend: 0.0)
    recipe = make_recipe(train={"precision": "bf16"}, system={"deterministic": True})
    for capability, version, taken, left in (
        ((9, 0), 91900, False, "-1"),
        ((10, 0), 91900, True, "-1"),
        ((9, 0), 92500, True, "0"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda found=version: found)
        assert (cudnn.why_not(recipe.model, recipe.compute) is None) == taken
        assert os.environ[limit] == left
