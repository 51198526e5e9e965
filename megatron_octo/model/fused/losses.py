"""Cross entropy of each token, with its gradient written over the logits.

Shape suffixes: T tokens of a micro-batch, S of them on this rank under sequence parallelism (else S = T), H hidden
size, V columns of the vocabulary on this rank.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from megatron_octo.model.fused.comm.exchange import TensorGroup
from megatron_octo.model.fused.kernels import ops
from megatron_octo.model.fused.layer_functions import Gradients
from megatron_octo.model.fused.matmul.matmul_backend import Arithmetic

_AS_THEY_ARE = Arithmetic(exact=False)  # logits are not computed in fp8


class CrossEntropyOfLogits(torch.autograd.Function):
    """Computes losses, fp32 [T], from logits [T, V]; the backward pass overwrites the logits with their gradient."""

    @staticmethod
    def forward(
        ctx: Any, logits_TV: Tensor, labels_T: Tensor, valid: int, first: int, group: dist.ProcessGroup
    ) -> Tensor:
        """Return losses, fp32 [T]; ``valid`` columns are tokens, ``first`` is the token id of column 0."""
        log_sum, target = _log_sums(logits_TV, labels_T, valid, first, group)
        ctx.save_for_backward(logits_TV, labels_T, log_sum)
        ctx.columns = (valid, first)
        return log_sum - target

    @staticmethod
    def backward(ctx: Any, d_losses_T: Tensor) -> Gradients:
        """Return the logits' gradient, written over the logits."""
        logits_TV, labels_T, log_sum_T = ctx.saved_tensors
        ops.cross_entropy_backward_(logits_TV, labels_T, log_sum_T, d_losses_T.contiguous(), *ctx.columns)
        return logits_TV, None, None, None, None


def _log_sums(
    logits_TV: Tensor, labels_T: Tensor, valid: int, first: int, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor]:
    """Return log of the sum of exponentials over all tensor ranks' columns, and the label's logit; fp32 [T] each."""
    log_sum, target = ops.cross_entropy_forward(logits_TV, labels_T, valid, first)
    size = dist.get_world_size(group)
    if size > 1:
        parts = log_sum.new_empty(size * log_sum.numel())
        dist.all_gather_into_tensor(parts, log_sum, group=group)
        log_sum = torch.logsumexp(parts.view(size, -1), 0)
        dist.all_reduce(target, group=group)
    return log_sum, target


class TokenLosses(torch.autograd.Function):
    """Computes losses, fp32 [T], from the last hidden state [S, H] and the output's weight [V, H].

    The logits [T, V] are stored once, in the weight's dtype; the backward pass overwrites them with their gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_SH: Tensor,
        weight_VH: Tensor,
        labels_T: Tensor,
        valid: int,
        tensor: TensorGroup,
        tied_here: bool,
    ) -> Tensor:
        """Return losses, fp32 [T]; ``tied_here``: the embeddings use the same weight in this process."""
        logits_TV = F.linear(tensor.gather_whole(x_SH), weight_VH)
        first = tensor.rank * weight_VH.size(0)
        log_sum, target = _log_sums(logits_TV, labels_T, valid, first, tensor.group)
        ctx.save_for_backward(x_SH, logits_TV, labels_T, log_sum)
        ctx.weight, ctx.tensor, ctx.tied_here = weight_VH, tensor, tied_here
        ctx.columns = (valid, first)
        return log_sum - target

    @staticmethod
    def backward(ctx: Any, d_losses_T: Tensor) -> Gradients:
        """Return the gradients of :meth:`forward`'s tensors."""
        x_SH, logits_TV, labels_T, log_sum_T = ctx.saved_tensors
        ops.cross_entropy_backward_(logits_TV, labels_T, log_sum_T, d_losses_T.contiguous(), *ctx.columns)
        places = ctx.tensor.rows(logits_TV.size(0))
        pieces = ctx.tensor.gather(x_SH)
        summing = ctx.tensor.sum(lambda place: logits_TV[places[place]] @ ctx.weight)
        both = ((logits_TV[rows], piece.wait()) for rows, piece in zip(places, pieces, strict=True))
        weight_gradient: Tensor | None = _AS_THEY_ARE.give_weight_gradient(ctx.weight, both)
        if ctx.tied_here and hasattr(ctx.weight, "main_grad"):
            weight_gradient = None  # autograd gets this weight's gradient from the embeddings
        return summing.wait(), weight_gradient, None, None, None, None
