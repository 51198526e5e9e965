"""Word and position embeddings. Gradients of rows that were read are added to the buffer of gradients, in its type; no
matrix of the whole table is made for that on a GPU.

T tokens of a micro-batch, S of them on this rank under sequence parallelism (else S = T), H hidden size, V rows of the
vocabulary on this tensor rank.
"""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_octo.model.fused.comm.exchange import TensorGroup
from megatron_octo.model.fused.functions import Gradients
from megatron_octo.model.fused.matmul.gradient_buffers import give_row_gradients


class Table(torch.nn.Module):
    """A matrix with a row for each word or position. Called before each use: see ``gpt.Affine``."""

    def __init__(self, rows: int, hidden: int, cut: bool):
        """Args:
        cut: whether each tensor rank has rows of its own.
        """
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(rows, hidden))
        if cut:
            tensor_parallel.set_tensor_model_parallel_attributes(self.weight, True, 0, 1)

    def forward(self) -> Tensor:
        return self.weight


class Lookup(torch.autograd.Function):
    """The sum of each token's word and position, [S, H]."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens_T: Tensor,
        positions_T: Tensor,
        words_VH: Tensor,
        places_PH: Tensor,
        tensor: TensorGroup,
    ) -> Tensor:
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
        d_TH = ctx.tensor.gather_whole(d_SH.contiguous())
        words, places = (
            give_row_gradients(parameter, rows_T, d_TH)
            for parameter, rows_T in zip(ctx.parameters, ctx.saved_tensors, strict=True)
        )
        return None, None, words, places, None


class Embedding(torch.nn.Module):
    """What the first layer starts from: words and learned positions, with dropout."""

    def __init__(self, config: TransformerConfig, words: int, positions: int, tensor: TensorGroup):
        """Args:
        words, positions: rows of the whole model's tables.
        """
        super().__init__()
        self.word_embeddings = Table(words // tensor.size, config.hidden_size, cut=True)
        self.position_embeddings = Table(positions, config.hidden_size, cut=False)
        self.dropout, self.tensor = config.hidden_dropout, tensor

    def forward(self, tokens_T: Tensor, positions_T: Tensor) -> Tensor:
        tables = self.word_embeddings(), self.position_embeddings()
        found = Lookup.apply(tokens_T, positions_T, *tables, self.tensor)
        return drop(found, self.dropout, self.training, self.tensor)


def drop(x_SH: Tensor, p: float, training: bool, tensor: TensorGroup) -> Tensor:
    """Dropout; of different tokens on each tensor rank under sequence parallelism."""
    if not tensor.sequence:
        return F.dropout(x_SH, p, training)
    with tensor_parallel.get_cuda_rng_tracker().fork():
        return F.dropout(x_SH, p, training)
