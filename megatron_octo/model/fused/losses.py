"""The cross entropy of each token, with its gradient written over the logits.

T tokens of a micro-batch, S of them on this rank under sequence parallelism (else S = T), H hidden size, V columns of
the vocabulary on this rank.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from megatron_octo.model.fused.comm.exchange import TensorGroup
from megatron_octo.model.fused.functions import Gradients
from megatron_octo.model.fused.kernels import ops
from megatron_octo.model.fused.matmul.matmul_backend import Arithmetic

_AS_THEY_ARE = Arithmetic(exact=False)  # logits are not computed in fp8


class CrossEntropyOfLogits(torch.autograd.Function):
    """Losses of tokens, fp32 [T], from logits [T, V]; the backward pass overwrites the logits with their gradient."""

    @staticmethod
    def forward(
        ctx: Any, logits_TV: Tensor, labels_T: Tensor, valid: int, first: int, group: dist.ProcessGroup
    ) -> Tensor:
        log_sum, target = _log_sums(logits_TV, labels_T, valid, first, group)
        ctx.save_for_backward(logits_TV, labels_T, log_sum)
        ctx.columns = (valid, first)
        return log_sum - target

    @staticmethod
    def backward(ctx: Any, d_losses_T: Tensor) -> Gradients:
        logits_TV, labels_T, log_sum_T = ctx.saved_tensors
        ops.cross_entropy_backward_(logits_TV, labels_T, log_sum_T, d_losses_T.contiguous(), *ctx.columns)
        return logits_TV, None, None, None, None


def _log_sums(
    logits_TV: Tensor, labels_T: Tensor, valid: int, first: int, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor]:
    """Over the columns of all tensor ranks: log of the sum of exponentials, and the label's logit; fp32 [T]."""
    log_sum, target = ops.cross_entropy_forward(logits_TV, labels_T, valid, first)
    size = dist.get_world_size(group)
    if size > 1:
        parts = log_sum.new_empty(size * log_sum.numel())
        dist.all_gather_into_tensor(parts, log_sum, group=group)
        log_sum = torch.logsumexp(parts.view(size, -1), 0)
        dist.all_reduce(target, group=group)
    return log_sum, target


class TokenLosses(torch.autograd.Function):
    """Cross entropy of each token from the last hidden state: fp32 [T]. The logits [T, V] are stored once, in bf16.

    In the backward pass they are overwritten with their own gradient.
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
        logits_TV = F.linear(tensor.gather_whole(x_SH), weight_VH)
        first = tensor.rank * weight_VH.size(0)
        log_sum, target = _log_sums(logits_TV, labels_T, valid, first, tensor.group)
        ctx.save_for_backward(x_SH, logits_TV, labels_T, log_sum)
        ctx.weight, ctx.valid, ctx.first, ctx.tensor, ctx.tied_here = (
            weight_VH,
            valid,
            first,
            tensor,
            tied_here,
        )
        return log_sum - target

    @staticmethod
    def backward(ctx: Any, d_losses_T: Tensor) -> Gradients:
        x_SH, logits_TV, labels_T, log_sum_T = ctx.saved_tensors
        ops.cross_entropy_backward_(
            logits_TV, labels_T, log_sum_T, d_losses_T.contiguous(), ctx.valid, ctx.first
        )
        places = ctx.tensor.rows(logits_TV.size(0))
        pieces = ctx.tensor.gather(x_SH)
        summing = ctx.tensor.sum(lambda place: logits_TV[places[place]] @ ctx.weight)
        both = ((logits_TV[rows], piece.wait()) for rows, piece in zip(places, pieces, strict=True))
        weight_gradient: Tensor | None = _AS_THEY_ARE.give_weight_gradient(ctx.weight, both)
        if ctx.tied_here and hasattr(ctx.weight, "main_grad"):
            weight_gradient = None  # autograd hears of this weight from the embeddings
        return summing.wait(), weight_gradient, None, None, None, None
