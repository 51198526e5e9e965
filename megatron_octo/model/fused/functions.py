"""The steps of a layer with their gradients written out, so that nothing is read, stored or sent twice.

T tokens of a micro-batch, S of them on this rank between linear layers (S = T without sequence parallelism), H hidden
size, D of one head, Q = H / tensor ranks, F of the MLP on this rank, V columns of the vocabulary on this rank.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from megatron_octo.model.fused import gemm, ops
from megatron_octo.model.fused.comm import TensorGroup

Gradients = tuple[Tensor | None, ...]


class AddNorm(torch.autograd.Function):
    """``residual + dropout(delta + bias)``, and its layer norm. Without a delta: the residual itself, and its norm."""

    @staticmethod
    def forward(
        ctx: Any,
        residual_SH: Tensor,
        delta_SH: Tensor | None,
        bias_H: Tensor | None,
        weight_H: Tensor,
        shift_H: Tensor,
        eps: float,
        p: float,
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        summed, normed, mean, rstd = ops.add_norm_forward(
            residual_SH, delta_SH, bias_H, weight_H, shift_H, eps, p, seed
        )
        ctx.save_for_backward(summed, weight_H, mean, rstd)
        ctx.parameters = (bias_H, weight_H, shift_H)
        ctx.dropout = (delta_SH is not None, p, seed)
        if delta_SH is None:
            summed = residual_SH.view_as(residual_SH)
        return summed, normed

    @staticmethod
    def backward(ctx: Any, d_summed_SH: Tensor, d_normed_SH: Tensor) -> Gradients:
        summed, weight, mean, rstd = ctx.saved_tensors
        bias, weight_parameter, shift = ctx.parameters
        d_residual, d_delta, sums = ops.add_norm_backward(
            d_summed_SH.contiguous(), d_normed_SH.contiguous(), summed, weight, mean, rstd, *ctx.dropout
        )
        has_delta = ctx.dropout[0]
        return (
            d_residual,
            d_delta if has_delta else None,
            gemm.give_gradient(bias, sums[2]) if has_delta else None,
            gemm.give_gradient(weight_parameter, sums[0]),
            gemm.give_gradient(shift, sums[1]),
            None,
            None,
            None,
        )


class QueryKeyValue(torch.autograd.Function):
    """Queries of this rank's heads, and the one key and value, which every tensor rank computes for itself.

    That costs a product of width 2 D a rank and spares an all-gather of all queries, keys and values a layer. Each
    rank's heads give a part of the gradients of key and value weights; they are summed over the ranks once a step.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_SH: Tensor,
        query_weight_QH: Tensor,
        query_bias_Q: Tensor,
        shared_weight_2DH: Tensor,
        shared_bias_2D: Tensor,
        tensor: TensorGroup,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens = x_SH.size(0) * (tensor.size if tensor.sequence else 1)
        query_TQ = x_SH.new_empty(tokens, query_weight_QH.size(0))
        shared_T2D = x_SH.new_empty(tokens, shared_weight_2DH.size(0))
        for rows, piece in zip(tensor.rows(tokens), tensor.gather(x_SH), strict=True):
            x = piece.wait()
            torch.addmm(query_bias_Q, x, query_weight_QH.t(), out=query_TQ[rows])
            torch.addmm(shared_bias_2D, x, shared_weight_2DH.t(), out=shared_T2D[rows])
        ctx.save_for_backward(x_SH)
        ctx.parameters = (query_weight_QH, query_bias_Q, shared_weight_2DH, shared_bias_2D)
        ctx.tensor = tensor
        key, value = shared_T2D.chunk(2, dim=1)
        return query_TQ, key.contiguous(), value.contiguous()

    @staticmethod
    def backward(ctx: Any, d_query_TQ: Tensor, d_key_TD: Tensor, d_value_TD: Tensor) -> Gradients:
        (x_SH,) = ctx.saved_tensors
        query_weight, query_bias, shared_weight, shared_bias = ctx.parameters
        pieces = ctx.tensor.gather(x_SH)
        d_shared_T2D = torch.cat([d_key_TD, d_value_TD], dim=1)
        places = ctx.tensor.rows(d_query_TQ.size(0))

        def dx(place: int) -> Tensor:
            rows = places[place]
            return (d_query_TQ[rows] @ query_weight).addmm_(d_shared_T2D[rows], shared_weight)

        summing = ctx.tensor.sum(dx)  # meanwhile the weights' gradients
        both = list(zip(places, pieces, strict=True))
        gradients = (
            gemm.give_weight_gradient(query_weight, ((d_query_TQ[rows], x.wait()) for rows, x in both)),
            gemm.give_gradient(query_bias, d_query_TQ.sum(0, dtype=torch.float32)),
            gemm.give_weight_gradient(shared_weight, ((d_shared_T2D[rows], x.wait()) for rows, x in both)),
            gemm.give_gradient(shared_bias, d_shared_T2D.sum(0, dtype=torch.float32)),
        )
        return summing.wait(), *gradients, None


class Projection(torch.autograd.Function):
    """Attention's output, without bias, summed over the tensor ranks."""

    @staticmethod
    def forward(ctx: Any, x_TQ: Tensor, weight_HQ: Tensor, tensor: TensorGroup) -> Tensor:
        ctx.save_for_backward(x_TQ)
        ctx.weight, ctx.tensor = weight_HQ, tensor
        places = tensor.rows(x_TQ.size(0))
        return tensor.sum(lambda place: F.linear(x_TQ[places[place]], weight_HQ)).wait()

    @staticmethod
    def backward(ctx: Any, d_SH: Tensor) -> Gradients:
        (x_TQ,) = ctx.saved_tensors
        dx_TQ = torch.empty_like(x_TQ)

        def pieces() -> Iterator[tuple[Tensor, Tensor]]:
            for rows, piece in zip(ctx.tensor.rows(x_TQ.size(0)), ctx.tensor.gather(d_SH), strict=True):
                d = piece.wait()
                torch.mm(d, ctx.weight, out=dx_TQ[rows])
                yield d, x_TQ[rows]

        gradient = gemm.give_weight_gradient(ctx.weight, pieces())
        return dx_TQ, gradient, None


class Mlp(torch.autograd.Function):
    """``gelu(x W1 + b1) W2``, without the second bias, summed over the tensor ranks.

    ``exact`` gelu, or its tanh approximation. With ``recompute`` the two inner activations [T, F] are computed again in
    the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_SH: Tensor,
        weight1_FH: Tensor,
        bias1_F: Tensor,
        weight2_HF: Tensor,
        tensor: TensorGroup,
        recompute: bool,
        exact: bool,
    ) -> Tensor:
        inner = [gemm.linear_gelu(piece.wait(), weight1_FH, bias1_F, exact) for piece in tensor.gather(x_SH)]
        kept = [] if recompute else [part for pair in inner for part in pair]
        ctx.save_for_backward(x_SH, *kept)
        ctx.parameters = (weight1_FH, bias1_F, weight2_HF)
        ctx.tensor, ctx.exact = tensor, exact
        return tensor.sum(lambda place: F.linear(inner[place][1], weight2_HF)).wait()

    @staticmethod
    def backward(ctx: Any, d_SH: Tensor) -> Gradients:
        x_SH, *kept = ctx.saved_tensors
        weight1, bias1, weight2 = ctx.parameters
        incoming, pieces = ctx.tensor.gather(d_SH), ctx.tensor.gather(x_SH)
        inner = (
            list(zip(kept[::2], kept[1::2], strict=True))
            if kept
            else [gemm.linear_gelu(piece.wait(), weight1, bias1, ctx.exact) for piece in pieces]
        )
        d_inner, bias_sums = [], []

        def second() -> Iterator[tuple[Tensor, Tensor]]:
            for piece, (before, activated) in zip(incoming, inner, strict=True):
                d = piece.wait()
                d_before, bias_sum = gemm.gelu_gradient(d, weight2, before, ctx.exact)
                d_inner.append(d_before)
                bias_sums.append(bias_sum)
                yield d, activated

        weight2_gradient = gemm.give_weight_gradient(weight2, second())
        summing = ctx.tensor.sum(lambda place: d_inner[place] @ weight1)  # meanwhile the weight's gradient
        first = ((d_before, piece.wait()) for d_before, piece in zip(d_inner, pieces, strict=True))
        weight1_gradient = gemm.give_weight_gradient(weight1, first)
        bias1_gradient = gemm.give_gradient(bias1, torch.stack(bias_sums).sum(0))
        return summing.wait(), weight1_gradient, bias1_gradient, weight2_gradient, None, None, None


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
        weight_gradient: Tensor | None = gemm.give_weight_gradient(ctx.weight, both)
        if ctx.tied_here and hasattr(ctx.weight, "main_grad"):
            # The embedding's own gradient comes through autograd to the same weight and has to be taken.
            ctx.weight.grad_added_to_main_grad = False
            weight_gradient = None
        return summing.wait(), weight_gradient, None, None, None, None
