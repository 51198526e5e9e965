"""Autograd functions of a layer's parts, with gradients written out so that nothing is read, stored or sent twice.

Shape suffixes: T tokens of a micro-batch, S of them on this rank between linear layers (S = T without sequence
parallelism), H hidden size, D head dim, Q = H / tensor ranks, F hidden size of the MLP on this rank.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from megatron_octo.model.fused.comm.exchange import TensorGroup
from megatron_octo.model.fused.kernels import ops
from megatron_octo.model.fused.matmul.gradient_buffers import give_gradients
from megatron_octo.model.fused.matmul.matmul_backend import Arithmetic, Operand

Gradients = tuple[Tensor | None, ...]


class AddNorm(torch.autograd.Function):
    """Computes ``residual + dropout(delta + bias)`` and its layer norm, both [S, H]; without a delta, the norm alone.

    With ``measure`` it notes the largest numbers of the tensors that linear layers read: norm, and delta's gradient.
    """

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
        measure: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return the sum and its norm, [S, H] in the residual's dtype."""
        summed, normed, mean, rstd = ops.add_norm_forward(
            residual_SH, delta_SH, bias_H, weight_H, shift_H, eps, p, seed, measure
        )
        ctx.save_for_backward(summed, weight_H, mean, rstd)
        ctx.parameters = (bias_H, weight_H, shift_H)
        ctx.dropout = (delta_SH is not None, p, seed)
        ctx.measure = measure
        if delta_SH is None:
            summed = residual_SH.view_as(residual_SH)
        return summed, normed

    @staticmethod
    def backward(ctx: Any, d_summed_SH: Tensor, d_normed_SH: Tensor) -> Gradients:
        """Return the gradients of :meth:`forward`'s tensors."""
        summed, weight, mean, rstd = ctx.saved_tensors
        bias, weight_parameter, shift = ctx.parameters
        d_residual, d_delta, sums = ops.add_norm_backward(
            d_summed_SH.contiguous(),
            d_normed_SH.contiguous(),
            summed,
            weight,
            mean,
            rstd,
            *ctx.dropout,
            ctx.measure,
        )
        if not ctx.dropout[0]:  # no delta
            given = give_gradients((weight_parameter, shift), sums[:2].unbind())
            return d_residual, None, None, *given, None, None, None, None
        d_weight, d_shift, d_bias = give_gradients((weight_parameter, shift, bias), sums.unbind())
        return d_residual, d_delta, d_bias, d_weight, d_shift, None, None, None, None


def _keep_input(
    ctx: Any, x_SH: Tensor, operands: list[Operand], whole: bool, arithmetic: Arithmetic, *others: Tensor
) -> None:
    """Save a linear layer's input for the backward pass: as it is, or as operands where those are smaller.

    ``whole``: all of the input is on this rank and will not be computed again, so the operands suffice.
    """
    compact = arithmetic.compact and whole
    ctx.operands = [arithmetic.for_backward(operand) for operand in operands] if compact else None
    ctx.save_for_backward(*(() if compact else (x_SH,)), *others)


def _kept_input(ctx: Any) -> tuple[list[Operand] | None, list[Tensor]]:
    """Return the operands if they were saved, dropped from ``ctx`` to free their memory; and the saved tensors."""
    operands, ctx.operands = ctx.operands, None
    return operands, list(ctx.saved_tensors)


class QueryKeyValue(torch.autograd.Function):
    """Computes queries of this rank's heads, [T, Q], and the one key and value, [T, D] each, on every tensor rank.

    That costs a product of width 2 D per rank and saves an all-gather of all queries, keys and values per layer. Each
    rank's heads give a part of the gradients of key and value weights; the parts are summed over the ranks once per
    step.
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
        arithmetic: Arithmetic,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [T, Q], key and value [T, D], in the input's dtype."""
        tokens = x_SH.size(0) * (tensor.size if tensor.sequence else 1)
        query_TQ = x_SH.new_empty(tokens, query_weight_QH.size(0))
        shared_T2D = x_SH.new_empty(tokens, shared_weight_2DH.size(0))
        query_weight, shared_weight = arithmetic.weight(query_weight_QH), arithmetic.weight(shared_weight_2DH)
        operands = []
        for rows, piece in zip(tensor.rows(tokens), tensor.gather(x_SH), strict=True):
            x = arithmetic.activation(piece.wait())
            arithmetic.linear(x, query_weight, query_bias_Q, query_TQ[rows])
            arithmetic.linear(x, shared_weight, shared_bias_2D, shared_T2D[rows])
            operands.append(x)
        _keep_input(ctx, x_SH, operands, not tensor.sequence, arithmetic)
        ctx.parameters = (query_weight_QH, query_bias_Q, shared_weight_2DH, shared_bias_2D)
        ctx.weights = [arithmetic.for_backward(weight) for weight in (query_weight, shared_weight)]
        ctx.tensor, ctx.arithmetic = tensor, arithmetic
        key_TD, value_TD = shared_T2D.chunk(2, dim=1)
        return query_TQ, key_TD, value_TD

    @staticmethod
    def backward(ctx: Any, d_query_TQ: Tensor, d_key_TD: Tensor, d_value_TD: Tensor) -> Gradients:
        """Return the gradients of :meth:`forward`'s tensors."""
        operands, saved = _kept_input(ctx)
        pieces = [] if operands else ctx.tensor.gather(saved[0])
        query_weight, query_bias, shared_weight, shared_bias = ctx.parameters
        arithmetic: Arithmetic = ctx.arithmetic
        weights, ctx.weights = ctx.weights, None
        d_shared_T2D = torch.cat([d_key_TD, d_value_TD], dim=1)
        places = ctx.tensor.rows(d_query_TQ.size(0))
        d_query = [arithmetic.gradient(d_query_TQ[rows]) for rows in places]
        d_shared = [arithmetic.gradient(d_shared_T2D[rows]) for rows in places]

        def dx(place: int) -> Tensor:
            rows = places[place]
            out = d_query_TQ.new_empty(rows.stop - rows.start, query_weight.size(1))
            arithmetic.input_gradient(d_query[place], weights[0], out)
            return arithmetic.input_gradient(d_shared[place], weights[1], out, accumulate=True)

        summing = ctx.tensor.sum(dx)  # overlaps with the weights' gradients
        x = operands or [arithmetic.activation(piece.wait()) for piece in pieces]
        bias_sums = [ops.column_sums(d) for d in (d_query_TQ, d_shared_T2D)]
        query_bias_gradient, shared_bias_gradient = give_gradients((query_bias, shared_bias), bias_sums)
        gradients = (
            arithmetic.give_weight_gradient(query_weight, zip(d_query, x, strict=True)),
            query_bias_gradient,
            arithmetic.give_weight_gradient(shared_weight, zip(d_shared, x, strict=True)),
            shared_bias_gradient,
        )
        return summing.wait(), *gradients, None, None


class Projection(torch.autograd.Function):
    """Computes attention's output projection [S, H] without bias, summed over the tensor ranks."""

    @staticmethod
    def forward(ctx: Any, x_TQ: Tensor, weight_HQ: Tensor, tensor: TensorGroup, arithmetic: Arithmetic) -> Tensor:
        """Return the projected rows of this rank, [S, H]."""
        places = tensor.rows(x_TQ.size(0))
        x = [arithmetic.activation(x_TQ[rows]) for rows in places]
        weight = arithmetic.weight(weight_HQ)

        def out(place: int) -> Tensor:
            rows = places[place]
            out_SH = x_TQ.new_empty(rows.stop - rows.start, weight_HQ.size(0))
            return arithmetic.linear(x[place], weight, None, out_SH)

        summed = tensor.sum(out).wait()
        _keep_input(ctx, x_TQ, x, True, arithmetic)
        ctx.parameter, ctx.weight = weight_HQ, arithmetic.for_backward(weight)
        ctx.tensor, ctx.arithmetic = tensor, arithmetic
        return summed

    @staticmethod
    def backward(ctx: Any, d_SH: Tensor) -> Gradients:
        """Return the gradients of :meth:`forward`'s tensors."""
        operands, saved = _kept_input(ctx)
        arithmetic: Arithmetic = ctx.arithmetic
        weight, ctx.weight = ctx.weight, None
        incoming = ctx.tensor.gather(d_SH)
        tokens = d_SH.size(0) * (ctx.tensor.size if ctx.tensor.sequence else 1)
        places = ctx.tensor.rows(tokens)
        x = operands or [saved[0][rows] for rows in places]
        dx_TQ = d_SH.new_empty(tokens, ctx.parameter.size(1))

        def pieces() -> Iterator[tuple[Operand, Operand]]:
            for place, (rows, piece) in enumerate(zip(places, incoming, strict=True)):
                d = arithmetic.gradient(piece.wait())
                arithmetic.input_gradient(d, weight, dx_TQ[rows])
                yield d, x[place]

        gradient = arithmetic.give_weight_gradient(ctx.parameter, pieces())
        return dx_TQ, gradient, None, None


class Mlp(torch.autograd.Function):
    """Computes ``gelu(x W1 + b1) W2`` [S, H] without the second bias, summed over the tensor ranks.

    With ``recompute`` the two inner activations [T, F] are computed again in the backward pass.
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
        arithmetic: Arithmetic,
    ) -> Tensor:
        """Return the MLP's output for the rows of this rank, [S, H]."""
        weight1, weight2 = arithmetic.weight(weight1_FH), arithmetic.weight(weight2_HF)
        operands, inner = [], []
        for piece in tensor.gather(x_SH):
            operands.append(arithmetic.activation(piece.wait()))
            inner.append(arithmetic.linear_gelu(operands[-1], weight1, bias1_F))

        def out(place: int) -> Tensor:
            before, activated = inner[place]
            out_SH = x_SH.new_empty(before.size(0), weight2_HF.size(0))
            return arithmetic.linear(activated, weight2, None, out_SH)

        summed = tensor.sum(out).wait()
        kept = [] if recompute else [before for before, _ in inner]
        _keep_input(ctx, x_SH, operands, not (tensor.sequence or recompute), arithmetic, *kept)
        ctx.activated = [] if recompute else [arithmetic.for_backward(activated) for _, activated in inner]
        ctx.parameters = (weight1_FH, bias1_F, weight2_HF)
        ctx.weights = [arithmetic.for_backward(weight) for weight in (weight1, weight2)]
        ctx.tensor, ctx.arithmetic = tensor, arithmetic
        return summed

    @staticmethod
    def backward(ctx: Any, d_SH: Tensor) -> Gradients:
        """Return the gradients of :meth:`forward`'s tensors."""
        operands, saved = _kept_input(ctx)
        weight1_parameter, bias1, weight2_parameter = ctx.parameters
        arithmetic: Arithmetic = ctx.arithmetic
        (weight1, weight2), ctx.weights = ctx.weights, None
        activated, ctx.activated = ctx.activated, None
        incoming = ctx.tensor.gather(d_SH)
        pieces = [] if operands else ctx.tensor.gather(saved.pop(0))
        before = saved
        if not activated:
            operands = [arithmetic.activation(piece.wait()) for piece in pieces]
            again = arithmetic.weight(weight1_parameter)
            inner = [arithmetic.linear_gelu(x, again, bias1) for x in operands]
            before, activated = [pair[0] for pair in inner], [pair[1] for pair in inner]
        d_inner, bias_sums = [], []

        def second() -> Iterator[tuple[Operand, Operand]]:
            for place, piece in enumerate(incoming):
                d = arithmetic.gradient(piece.wait())
                d_before, bias_sum = arithmetic.gelu_gradient(d, weight2, before[place])
                d_inner.append(d_before)
                bias_sums.append(bias_sum)
                yield d, activated[place]

        weight2_gradient = arithmetic.give_weight_gradient(weight2_parameter, second())

        def dx(place: int) -> Tensor:
            out_SH = d_SH.new_empty(before[place].size(0), weight1_parameter.size(1))
            return arithmetic.input_gradient(d_inner[place], weight1, out_SH)

        summing = ctx.tensor.sum(dx)  # overlaps with the weight's gradient
        x = operands or [arithmetic.activation(piece.wait()) for piece in pieces]
        weight1_gradient = arithmetic.give_weight_gradient(weight1_parameter, zip(d_inner, x, strict=True))
        bias_sum = bias_sums[0] if len(bias_sums) == 1 else torch.stack(bias_sums).sum(0)
        (bias1_gradient,) = give_gradients((bias1,), (bias_sum,))
        return summing.wait(), weight1_gradient, bias1_gradient, weight2_gradient, None, None, None
