"""Check of an optional library: is it installed, and does it compute the right thing on this GPU, with these shapes?"""

import functools
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig

TOLERANCE = 0.02  # relative; bf16 rounds by 0.4 %
_SHORT = 300  # tokens: not a multiple of any kernel's tile

# Called with queries, keys and values of packed documents, their boundaries and an upper bound of their lengths.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Library:
    """An optional package, the extra of this project that installs it, and the version needed."""

    package: str
    extra: str
    needed: str

    def __str__(self) -> str:
        return f"{self.package} {importlib.metadata.version(self.package)}"

    @property
    def installed(self) -> bool:
        """Return whether the package is installed, in any version."""
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
        """Return why its attention cannot be used on this GPU, or None, after one small forward and backward pass.

        Args:
            model: Gives shapes and window.
            compute: Gives the layout, row length and determinism.
            attend: An :data:`Attend` that also takes ``scale``, ``window`` and ``deterministic`` by name.
            obstacle: See :meth:`examine`.
        """
        options = {"window": model.sliding_window, "deterministic": compute.deterministic}
        attention = functools.partial(attend, scale=model.head_dim**-0.5, **options)
        return self.examine(obstacle, lambda: relative_error(model, compute, attention))

    def examine(self, obstacle: Callable[[], str | None], measure: Callable[[], float]) -> str | None:
        """Return why the library cannot be used on this GPU, or None.

        Args:
            obstacle: Called first, returns a reason or None; it may raise anything that the library raises.
            measure: Computes something small with the library and returns the relative error, or nan.
        """
        if not self.installed:
            return f"{self.package} is not installed (pip install -e .[{self.extra}])"
        try:
            if problem := obstacle():
                return problem
            error = measure()
        # The libraries' own errors have no common base, and each becomes the reason.
        except Exception as failure:
            first = (str(failure).splitlines() or [""])[0]
            return f"{self} ({self.needed} is needed) failed: {type(failure).__name__}: {first}"
        if not error < TOLERANCE:
            return f"{self} computes something else here: relative error {error:.2g}"
        return None


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
    errors += [0.0 * part.float().sum() for part in found]  # nan if any element is
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


def relative(found: Tensor, expected: Tensor) -> Tensor:
    """Return the norm of the difference divided by the norm of ``expected``, fp32 []."""
    error: Tensor = (found.detach().float() - expected.detach()).norm() / expected.detach().norm()
    return error
