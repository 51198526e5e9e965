"""The kernels' operations in plain torch: what runs on a CPU, and what the kernels are tested against.

T tokens, H hidden size, F hidden size of the MLP, V columns of the vocabulary on this tensor rank.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_octo.model.fused.kernels.amax import note


def _note(tensor: Tensor) -> None:
    note(tensor, tensor.abs().amax().float().reshape(1))


def _kept(like: Tensor, p: float, seed: int) -> Tensor:
    """Draw dropout's factors, 0 or 1 / (1 - p), fp32."""
    generator = torch.Generator(like.device).manual_seed(seed)
    draws = torch.rand(like.shape, generator=generator, device=like.device)
    return (draws >= p).float() / (1 - p)


def add_norm_forward(
    residual_TH: Tensor,
    delta_TH: Tensor | None,
    bias_H: Tensor | None,
    weight_H: Tensor,
    shift_H: Tensor,
    eps: float,
    p: float,
    seed: int,
    measure: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute ``summed = residual + dropout(delta + bias)``, without a delta the residual, and its layer norm.

    Dropout has rate ``p``. With ``measure``, the norm's largest number is noted (:mod:`.amax`).

    Returns:
        summed, normed [T, H] in residual's dtype; mean and reciprocal standard deviation, fp32 [T].
    """
    summed = residual_TH
    if delta_TH is not None:
        assert bias_H is not None
        added = delta_TH.float() + bias_H.float()
        if p:
            added *= _kept(delta_TH, p, seed)
        summed = (residual_TH.float() + added).to(residual_TH.dtype)
    x = summed.float()
    mean = x.mean(1)
    rstd = (x.var(1, unbiased=False) + eps).rsqrt()
    normed = (x - mean[:, None]) * rstd[:, None] * weight_H.float() + shift_H.float()
    normed = normed.to(summed.dtype)
    if measure:
        _note(normed)
    return summed, normed, mean, rstd


def add_norm_backward(
    d_summed_TH: Tensor,
    d_normed_TH: Tensor,
    summed_TH: Tensor,
    weight_H: Tensor,
    mean_T: Tensor,
    rstd_T: Tensor,
    has_delta: bool,
    p: float,
    seed: int,
    measure: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of :func:`add_norm_forward`; with ``measure``, note the largest number of the delta's.

    Returns:
        Of residual and of delta (the same tensor without dropout) [T, H]; of weight, shift and bias, fp32 [3, H].
    """
    normalised = (summed_TH.float() - mean_T[:, None]) * rstd_T[:, None]
    dy = d_normed_TH.float()
    d_weight, d_shift = (dy * normalised).sum(0), dy.sum(0)
    dy = dy * weight_H.float()
    projected = (dy * normalised).mean(1, keepdim=True)
    dx = rstd_T[:, None] * (dy - dy.mean(1, keepdim=True) - normalised * projected) + d_summed_TH.float()
    d_residual = dx.to(summed_TH.dtype)
    if not has_delta:
        return d_residual, d_residual, torch.stack([d_weight, d_shift, torch.zeros_like(d_shift)])
    if p:
        dx = dx * _kept(summed_TH, p, seed)
    d_delta = dx.to(summed_TH.dtype) if p else d_residual
    if measure:
        _note(d_delta)
    return d_residual, d_delta, torch.stack([d_weight, d_shift, dx.sum(0)])


def column_sums(x_MN: Tensor) -> Tensor:
    """Sum the rows in fp32: [N]."""
    return x_MN.sum(0, dtype=torch.float32)


def gelu_forward(x_TF: Tensor, exact: bool, measure: bool = False) -> Tensor:
    """Compute gelu [T, F] in x's dtype, or GPT's tanh approximation; with ``measure``, note its largest number."""
    out = F.gelu(x_TF, approximate="none" if exact else "tanh")
    if measure:
        _note(out)
    return out


def gelu_backward(dy_TF: Tensor, x_TF: Tensor, exact: bool, measure: bool = False) -> tuple[Tensor, Tensor]:
    """Compute the gradient of :func:`gelu_forward` [T, F], and its sum over the tokens, fp32 [F]."""
    dx = torch.ops.aten.gelu_backward(dy_TF, x_TF, approximate="none" if exact else "tanh")
    if measure:
        _note(dx)
    return dx, column_sums(dx)


def cross_entropy_forward(logits_TV: Tensor, labels_T: Tensor, valid: int, first: int) -> tuple[Tensor, Tensor]:
    """Return the log of the sum of exponentials over this rank's columns, and the label's logit; fp32 [T].

    Args:
        logits_TV: fp32 or bf16.
        labels_T: Token ids, int64. A label of another rank has logit 0 here.
        valid: Columns of real tokens; the padding after them is left out.
        first: Token id of column 0.
    """
    columns = logits_TV[:, :valid].float()
    local = labels_T - first
    mine = (local >= 0) & (local < valid)
    target = columns.gather(1, local.clamp(0, max(valid - 1, 0))[:, None])[:, 0] if valid else columns.sum(1)
    return columns.logsumexp(1), torch.where(mine, target, 0.0)


def cross_entropy_backward_(
    logits_TV: Tensor, labels_T: Tensor, log_sum_T: Tensor, d_losses_T: Tensor, valid: int, first: int
) -> None:
    """Overwrite the logits with their gradient.

    Args:
        logits_TV: fp32 or bf16; padding becomes 0.
        labels_T: Token ids, int64.
        log_sum_T: Log of the sum of exponentials over the columns of all ranks, fp32.
        d_losses_T: Gradient of each token's loss, fp32.
        valid: Columns of real tokens.
        first: Token id of column 0.
    """
    gradient = (logits_TV[:, :valid].float() - log_sum_T[:, None]).exp()
    local = labels_T - first
    mine = ((local >= 0) & (local < valid)).nonzero()[:, 0]
    gradient[mine, local[mine]] -= 1
    logits_TV[:, :valid] = (gradient * d_losses_T[:, None]).to(logits_TV.dtype)
    logits_TV[:, valid:] = 0


def add_rows_(table_RH: Tensor, rows_T: Tensor, d_TH: Tensor) -> None:
    """Add each ``d_TH[t]`` to row ``rows_T[t]`` of a table, summed in fp32 and in the order of T.

    Args:
        table_RH: fp32 or bf16.
        rows_T: Row numbers, int64; those outside the table are passed over.
        d_TH: Gradients, fp32 or bf16.
    """
    mine = (rows_T >= 0) & (rows_T < table_RH.size(0))
    table_RH += torch.ops.aten.embedding_dense_backward(d_TH[mine].float(), rows_T[mine], table_RH.size(0), -1, False)
