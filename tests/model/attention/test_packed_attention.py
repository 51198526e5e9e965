"""Attention over packed documents: equal to a dense mask in plain torch, and no influence between documents."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_octo.model.platform.mcore import load_mcore
from megatron_octo.recipe.schema import Recipe
from tests.distributed import run_ranks
from tests.model.configs import HEAD_DIM, HEADS, attention_config

# Two layers of a window of 8: what a token changes reaches 14 positions further, and no more.
STARCODER2 = {"architecture": "starcoder2", "num_query_groups": 2, "rotary_base": 1e4, "sliding_window": 8}


def turned(states_THD: Tensor, positions_T: Tensor, base: float) -> Tensor:
    """Rotary positions as complex numbers: (i, i + dim / 2) is one of them."""
    half = HEAD_DIM // 2
    angles_TE = positions_T[:, None] * base ** (-torch.arange(half) / half)
    first, second = states_THD.split(half, dim=-1)
    product = torch.complex(first, second) * torch.exp(1j * angles_TE)[:, None]
    return torch.cat((product.real, product.imag), dim=-1)


def dense(
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    boundaries: list[int],
    window: int | None,
    base: float | None,
) -> Tensor:
    """Softmax over all pairs of positions, each head with a key of its own, what is not visible masked."""
    tokens = query_THD.size(0)
    document_T = torch.zeros(tokens, dtype=torch.long)
    for number, (start, end) in enumerate(itertools.pairwise(boundaries)):
        document_T[start:end] = number
    position_T = torch.arange(tokens) - torch.tensor(boundaries)[document_T]
    distance_TT = torch.arange(tokens)[:, None] - torch.arange(tokens)[None, :]
    visible_TT = (document_T[:, None] == document_T[None, :]) & (distance_TT >= 0)
    if window:
        visible_TT &= distance_TT < window
    if base:
        query_THD, key_TGD = turned(query_THD, position_T, base), turned(key_TGD, position_T, base)
    key_THD, value_THD = (part.repeat_interleave(HEADS // part.size(1), 1) for part in (key_TGD, value_TGD))
    scores_HTT = torch.einsum("qhd,khd->hqk", query_THD, key_THD) / HEAD_DIM**0.5
    weights_HTT = torch.softmax(scores_HTT.masked_fill(~visible_TT, float("-inf")), dim=-1)
    return torch.einsum("hqk,khd->qhd", weights_HTT, value_THD)


@pytest.mark.parametrize(
    ("groups", "window", "base"),
    [(1, None, None), (4, None, None), (2, None, 1e4), (2, 5, 1e4), (1, 1, None), (4, 39, 500.0)],
)
@pytest.mark.parametrize("boundaries", [[0, 40], [0, 1, 2, 40], [0, 13, 14, 30, 40], list(range(41))])
def test_equals_a_dense_masked_softmax(
    boundaries: list[int], groups: int, window: int | None, base: float | None
) -> None:
    load_mcore()
    from megatron_octo.model.attention.packed_attention import DocumentAttention, packed_params
    from megatron_octo.model.attention.rotary import Rotary

    rotary = Rotary(base, HEAD_DIM, 40) if base else None
    attention = DocumentAttention(attention_config(groups, window), 1, None, "self", rotary=rotary)
    generator = torch.Generator().manual_seed(len(boundaries))
    inputs = [
        torch.randn(40, heads, HEAD_DIM, generator=generator, requires_grad=True) for heads in (HEADS, groups, groups)
    ]
    packed = packed_params(torch.tensor(boundaries, dtype=torch.int32), 40)
    ours = attention(*inputs, None, packed_seq_params=packed)
    theirs = dense(*inputs, boundaries, window, base)
    upstream = torch.randn(ours.shape, generator=generator)
    assert float((ours - theirs).abs().max()) <= 1e-6
    gradients = [torch.autograd.grad(output, inputs, upstream) for output in (ours, theirs)]
    for mine, expected in zip(*gradients):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=2e-6)
    with pytest.raises(ValueError, match="packed documents only"):
        attention(*inputs, None)


def test_positions_restart_with_every_document() -> None:
    from megatron_octo.model.attention.rotary import Rotary

    rotary = Rotary(1e4, 8, 64)
    # As many tokens as the longest document may have: megatron-core's own rotation would count through.
    cosine_T1D, sine_T1D = rotary.tables(torch.tensor([0, 3, 3, 60, 64], dtype=torch.int32), 64)
    positions = [0, 1, 2, *range(57), 0, 1, 2, 3]
    angles_TE = torch.tensor(positions, dtype=torch.float64)[:, None] / 1e4 ** (torch.arange(4) / 4)
    expected_TD = torch.cat((angles_TE, angles_TE), dim=1)
    torch.testing.assert_close(cosine_T1D[:, 0].double(), expected_TD.cos(), rtol=0, atol=1e-5)
    torch.testing.assert_close(sine_T1D[:, 0].double(), expected_TD.sin(), rtol=0, atol=1e-5)


def logits_of(recipe: Recipe, rows: list[Tensor], boundaries: list[int]) -> list[Tensor]:
    """This rank's logits of the whole network for several versions of the same packed row."""
    from megatron_octo.model.attention.packed_attention import packed_params
    from megatron_octo.model.fused.core_attention import Documents
    from megatron_octo.model.fused.fused_gpt import FusedGPT
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.training.engine.network import Network

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), recipe.train.seed)
    network = Network(recipe, grid)
    network.start_from(None)
    network.core.eval()
    positions = torch.cat([torch.arange(end - start) for start, end in itertools.pairwise(boundaries)])
    cumulative = torch.tensor(boundaries, dtype=torch.int32)
    packed = packed_params(cumulative, recipe.data.seq_length)

    def logits(tokens: Tensor) -> Tensor:
        if not isinstance(network.core, FusedGPT):
            found: Tensor = network.core(tokens[None], positions[None], None, packed_seq_params=packed)[0]
            return found.clone()
        documents = Documents(cumulative, recipe.data.seq_length)
        hidden = network.core.hidden_states(tokens[None], positions[None], documents)
        return network.core.tensor.gather_whole(hidden) @ network.core.output_weight().t()

    with torch.no_grad():
        return [logits(tokens) for tokens in rows]


@pytest.mark.parametrize(
    ("world", "sections"),
    [
        (1, {}),
        (2, {"parallel": {"tensor": 2}}),
        (2, {"parallel": {"tensor": 2, "sequence": True}}),
        (1, {"train": {"precision": "bf16"}}),
        (2, {"system": {"layers": "mcore"}, "parallel": {"tensor": 2, "sequence": True}}),
        (1, {"model": STARCODER2}),
        (2, {"model": STARCODER2, "parallel": {"tensor": 2, "sequence": True}}),
    ],
    ids=["one", "tp2", "tp2-sp", "bf16", "mcore-tp2-sp", "starcoder2", "starcoder2-tp2-sp"],
)
def test_documents_never_see_each_other(
    make_recipe: Callable[..., Recipe], world: int, sections: dict[str, Any]
) -> None:
    boundaries = [0, 20, 50, 64]
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(1, 1001, (64,), generator=generator)
    first, middle, last = row.clone(), row.clone(), row.clone()
    first[0:20] = torch.randint(1, 1001, (20,), generator=generator)
    middle[35] = (row[35] + 1) % 1001
    last[50:] = torch.randint(1, 1001, (14,), generator=generator)
    for logits in run_ranks(world, logits_of, make_recipe(**sections), [row, first, middle, last], boundaries):
        plain, other_first, other_middle, other_last = logits
        assert torch.equal(plain[20:], other_first[20:])
        assert torch.equal(plain[:50], other_last[:50])
        # A token changes what comes behind it in its document, itself included, and nothing else.
        changed = (plain != other_middle).any(dim=1)
        assert changed[35:50].all()
        assert not changed[:35].any()
        assert not changed[50:].any()
        # The same check sees a difference where there is one.
        assert (plain[:20] != other_first[:20]).any(dim=1).all()
        assert (plain[50:] != other_last[50:]).any(dim=1).all()
