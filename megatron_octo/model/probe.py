"""Whether an attention library that may be there computes the right thing on this GPU, for this recipe."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_octo.config import Recipe

TOLERANCE = 0.02  # relative; bf16 rounds by 0.4 %

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

    def why_not(self, recipe: Recipe, attend: Attend, obstacle: Callable[[], str | None]) -> str | None:
        """The reason why it cannot be taken on this GPU; None if it can.

        Runs one small forward and backward pass as the model will.

        Args:
            obstacle: looks for a reason first; it may raise whatever the library raises.
        """
        if not self.installed:
            return f"{self.package} is not installed (pip install -e .[{self.extra}])"
        try:
            if problem := obstacle():
                return problem
            error = relative_error(recipe, attend)
        except (
            Exception
        ) as failure:  # the libraries' own do not have one base, and whatever it is, it is said
            first = (str(failure).splitlines() or [""])[0]
            return f"{self} ({self.needed} is needed) failed: {type(failure).__name__}: {first}"
        if not error < TOLERANCE:
            return f"{self} computes something else here: relative error {error:.2g}"
        return None


def relative_error(recipe: Recipe, attend: Attend) -> float:
    """Of the last position of each of two documents, added up; nan if any gradient of them is."""
    model, tokens = recipe.model, recipe.data.seq_length
    heads = model.num_attention_heads // recipe.parallel.tensor
    groups = max(1, model.num_query_groups // recipe.parallel.tensor)
    generator = torch.Generator("cuda").manual_seed(0)  # the run's own random numbers stay what they are
    query, key, value = (
        torch.randn(
            tokens, count, model.head_dim, dtype=torch.bfloat16, device="cuda", generator=generator
        ).requires_grad_()
        for count in (heads, groups, groups)
    )
    boundaries = torch.tensor([0, tokens // 2, tokens], dtype=torch.int32, device="cuda")
    out = attend(query, key, value, boundaries, tokens)
    out.sum().backward()
    error = 0.0 * sum(float(part.grad.float().sum()) for part in (query, key, value) if part.grad is not None)
    for start, end in ((0, tokens // 2), (tokens // 2, tokens)):
        first = max(start, end - (model.sliding_window or tokens))
        keys, values = (
            part[first:end].detach().float().repeat_interleave(heads // groups, 1) for part in (key, value)
        )
        scores = torch.einsum("hd,khd->hk", query[end - 1].detach().float(), keys) * model.head_dim**-0.5
        expected = torch.einsum("hk,khd->hd", scores.softmax(-1), values)
        error += float((out[end - 1].detach().float() - expected).norm() / expected.norm())
    return error
