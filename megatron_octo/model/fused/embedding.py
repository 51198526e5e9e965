"""Word and position embeddings.

Gradients are added to the rows that were read, in the gradient buffer and its dtype; on a GPU no gradient of the whole
table is allocated.

Shape suffixes: T tokens of a micro-batch, S of them on this rank under sequence parallelism (else S = T), H hidden
size, V rows of the vocabulary on this tensor rank, P positions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_octo.model.fused.comm.exchange import TensorGroup
from megatron_octo.model.fused.layer_functions import Gradients
from megatron_octo.model.fused.matmul.gradient_buffers import give_row_gradients


class Table(torch.nn.Module):
    """A matrix [rows, H] with a row for each word or position; ``cut``: the tensor ranks share the rows.

    It must be called before each use: see ``fused_gpt.Affine``.
    """

    def __init__(self, rows: int, hidden: int, cut: bool):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(rows, hidden))
        if cut:
            tensor_parallel.set_tensor_model_parallel_attributes(self.weight, True, 0, 1)

    def forward(self) -> Tensor:
        """Return the matrix."""
        return self.weight


class Lookup(torch.autograd.Function):
    """Computes the sum of each token's word and position embedding, [S, H]."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens_T: Tensor,
        positions_T: Tensor,
        words_VH: Tensor,
        places_PH: Tensor,
        tensor: TensorGroup,
    ) -> Tensor:
        """Return the embeddings, [S, H]."""
        pieces = tensor.rows(tokens_T.numel())
        rows_T = tokens_T - tensor.rank * words_VH.size(0)
        ctx.save_for_backward(rows_T, positions_T)
        ctx.parameters, ctx.tensor = (words_VH, places_PH), tensor
        if tensor.size == 1:
            return F.embedding(rows_T, words_VH) + F.embedding(positions_T, places_PH)

        def words(place: int) -> Tensor:
            rows = rows_T[pieces[place]]
            elsewhere = (rows < 0) | (rows >= words_VH.size(0))
            found = F.embedding(rows.masked_fill(elsewhere, 0), words_VH)
            return found.masked_fill_(elsewhere[:, None], 0)

        return tensor.sum(words).wait() + F.embedding(positions_T[pieces[0]], places_PH)

    @staticmethod
    def backward(ctx: Any, d_SH: Tensor) -> Gradients:
        """Return the gradients of :meth:`forward`'s tensors."""
        d_TH = ctx.tensor.gather_whole(d_SH.contiguous())
        words, places = (
            give_row_gradients(parameter, rows_T, d_TH)
            for parameter, rows_T in zip(ctx.parameters, ctx.saved_tensors, strict=True)
        )
        return None, None, words, places, None


class Embedding(torch.nn.Module):
    """The first layer's input: words and learned positions, with dropout.

    ``words`` and ``positions`` are the numbers of rows of the whole model's tables.
    """

    def __init__(self, config: TransformerConfig, words: int, positions: int, tensor: TensorGroup):
        super().__init__()
        self.word_embeddings = Table(words // tensor.size, config.hidden_size, cut=True)
        self.position_embeddings = Table(positions, config.hidden_size, cut=False)
        self.dropout, self.tensor = config.hidden_dropout, tensor

    def forward(self, tokens_T: Tensor, positions_T: Tensor) -> Tensor:
        """Return embeddings [S, H] of int64 token ids and positions within their documents."""
        tables = self.word_embeddings(), self.position_embeddings()
        found = Lookup.apply(tokens_T, positions_T, *tables, self.tensor)
        return drop(found, self.dropout, self.training, self.tensor)


def drop(x_SH: Tensor, p: float, training: bool, tensor: TensorGroup) -> Tensor:
    """Apply dropout, with a mask per tensor rank under sequence parallelism, where the ranks have different tokens."""
    if not tensor.sequence:
        return F.dropout(x_SH, p, training)
    with tensor_parallel.get_cuda_rng_tracker().fork():
        return F.dropout(x_SH, p, training)
