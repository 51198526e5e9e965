"""Whether a library that may be there computes the right thing on this GPU, for this recipe."""

import functools
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig

TOLERANCE = 0.02  # relative; bf16 rounds by 0.4 %
_SHORT = 300  # tokens: no multiple of any kernel's tile

# Queries, keys and values of packed documents, their boundaries (int32, cumulative), an upper bound of their lengths.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Library:
    """Attributes: package, the extra of ours that installs it, the version that is needed."""

    package: str
    extra: str
    needed: str

    def __str__(self) -> str:
        return f"{self.package} {importlib.metadata.version(self.package)}"

    @property
    def installed(self) -> bool:
        try:
            importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    def why_not(
        self,
        model: ModelConfig,
        compute: Compute,
        attend: Callable[..., Tensor],
        obstacle: Callable[[], str | None],
    ) -> str | None:
        """The reason why its attention cannot be taken on this GPU; None if it can.

        Runs one small forward and backward pass as the model will.

        Args:
            attend: what :data:`Attend` says, with ``scale``, ``window`` and ``deterministic`` by name.
            obstacle: see :meth:`examine`.
        """
        options = {"window": model.sliding_window, "deterministic": compute.deterministic}
        attention = functools.partial(attend, scale=model.head_dim**-0.5, **options)
        return self.examine(obstacle, lambda: relative_error(model, compute, attention))

    def examine(self, obstacle: Callable[[], str | None], measure: Callable[[], float]) -> str | None:
        """The reason why it cannot be taken on this GPU; None if it can.

        Args:
            obstacle: looks for a reason first; it may raise whatever the library raises.
            measure: computes something small with it; the relative error of what came out, or nan.
        """
        if not self.installed:
            return f"{self.package} is not installed (pip install -e .[{self.extra}])"
        try:
            if problem := obstacle():
                return problem
            error = measure()
        # The libraries' own errors do not have one base, and whatever it is, it is said.
        except Exception as failure:
            first = (str(failure).splitlines() or [""])[0]
            return f"{self} ({self.needed} is needed) failed: {type(failure).__name__}: {first}"
        if not error < TOLERANCE:
            return f"{self} computes something else here: relative error {error:.2g}"
        return None


@torch.enable_grad()
def relative_error(model: ModelConfig, compute: Compute, attend: Attend) -> float:
    """The largest of a short document's output and gradients, and of a long one's last position; or nan.

    Relative to attention written out in fp32. The long document fills the rest of a row.
    """
    tokens, tensor = compute.seq_length, compute.layout.tensor
    heads = model.num_attention_heads // tensor
    groups = max(1, model.num_query_groups // tensor)
    generator = torch.Generator("cuda").manual_seed(0)  # the run's own random numbers stay what they are

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
    errors += [0.0 * part.float().sum() for part in found]  # nan, wherever it is
    return float(torch.stack(errors).max())


def _attention(parts: list[Tensor], window: int | None) -> Tensor:
    """Of the last Q of K positions, written out, from queries [Q, heads, dim], keys and values [K, groups, dim]."""
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


def relative(found: Tensor, expected: Tensor) -> Tensor:
    """Norm of the difference over the norm of what is expected."""
    return (found.detach().float() - expected.detach()).norm() / expected.detach().norm()
