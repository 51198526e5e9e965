"""Check of an attention library's results on this GPU, with a model's shapes."""

from collections.abc import Callable

import torch
from torch import Tensor

from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.model.platform.optional_library import relative

_SHORT = 300  # tokens: not a multiple of any kernel's tile

# Called with queries, keys and values of packed documents, their boundaries and an upper bound of their lengths.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


@torch.enable_grad()
def relative_error(model: ModelConfig, compute: Compute, attend: Attend) -> float:
    """Return the largest relative error of ``attend`` beside attention written out in fp32, or nan.

    Compared are the output and gradients of a short document, and the last position of a long one, which fills the rest
    of the row.
    """
    tokens, tensor = compute.seq_length, compute.layout.tensor
    heads = model.num_attention_heads // tensor
    groups = max(1, model.num_query_groups // tensor)
    generator = torch.Generator("cuda").manual_seed(0)  # leaves the run's own random numbers alone

    def draw(count: int) -> Tensor:
        shape = (tokens, count, model.head_dim)
        return torch.randn(shape, dtype=torch.bfloat16, device="cuda", generator=generator)

    parts, upstream = [draw(count).requires_grad_() for count in (heads, groups, groups)], draw(heads)
    short = min(_SHORT, tokens // 2)
    boundaries = torch.tensor([0, short, tokens], dtype=torch.int32, device="cuda")
    out = attend(parts[0], parts[1], parts[2], boundaries, tokens)
    found = [out, *torch.autograd.grad(out, parts, upstream)]

    exact = [part.detach()[:short].float().requires_grad_() for part in parts]
    expected = _attention(exact, model.sliding_window)
    references = [expected, *torch.autograd.grad(expected, exact, upstream[:short].float())]
    errors = [relative(mine[:short], its) for mine, its in zip(found, references, strict=True)]

    first = max(short, tokens - (model.sliding_window or tokens))
    query, key, value = (part.detach().float() for part in parts)
    last = _attention([query[-1:], key[first:], value[first:]], window=None)
    errors.append(relative(out[-1:], last))
    errors += [0.0 * part.detach().float().sum() for part in found]  # nan if any element is
    return float(torch.stack(errors).max())


def _attention(parts: list[Tensor], window: int | None) -> Tensor:
    """Compute attention of the last Q of K positions from queries [Q, H, D], keys and values [K, G, D]: [Q, H, D]."""
    query_QHD, key_KGD, value_KGD = parts
    queries, keys = query_QHD.size(0), key_KGD.size(0)
    shared = query_QHD.size(1) // key_KGD.size(1)
    key_KHD, value_KHD = (part.repeat_interleave(shared, 1) for part in (key_KGD, value_KGD))
    seen = torch.ones(queries, keys, dtype=torch.bool, device=query_QHD.device).tril(keys - queries)
    if window:
        seen = seen.triu(keys - queries - window + 1)
    scores = torch.einsum("qhd,khd->hqk", query_QHD, key_KHD) * query_QHD.size(2) ** -0.5
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value_KHD)
