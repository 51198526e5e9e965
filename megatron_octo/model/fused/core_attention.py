"""Core attention of the fused layers: softmax(q k) v of packed documents, by the kernel of the chosen back end."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from megatron_octo.model.attention.backend import Backend
from megatron_octo.model.attention.packed_attention import packed_params


@dataclass(frozen=True)
class Documents:
    """Boundaries of the documents of a micro-batch.

    Attributes:
        boundaries: int32 [documents + 1], cumulative lengths, on the device.
        longest: An upper bound of the lengths.
        whole_rows: Number of rows if each is a single document, else 0.
    """

    boundaries: Tensor
    longest: int
    whole_rows: int = 0


class CoreAttention(torch.nn.Module):
    """Computes causal attention of this rank's query heads and the one key and value, inside each document.

    Rows that are one document each take a dense kernel, FlashAttention-4's or cuDNN's, which is faster than the kernel
    for documents of different lengths.
    """

    def __init__(self, config: TransformerConfig, layer_number: int, backend: Backend, heads: int):
        super().__init__()
        self.heads, self.width = heads, config.kv_channels
        self.dense = torch.cuda.is_available() and not (config.attention_dropout or config.deterministic_mode)
        self.dense = self.dense and config.bf16 and backend.name != "unfused"
        self.engine = backend.transformer_engine
        self.core: Any = (
            _engine_attention(config, heads)
            if self.engine
            else backend.core_attention(config, layer_number, AttnMaskType.padding_causal, "self")  # type: ignore[misc]
        )
        self.rows = getattr(self.core, "attend_rows", None)  # FlashAttention-4's own dense kernel

    def forward(self, query_TQ: Tensor, key_TD: Tensor, value_TD: Tensor, documents: Documents) -> Tensor:
        """Return [T, Q] in the queries' dtype. Keys and values may be views of one matrix."""
        if not self.rows:  # other kernels need them contiguous
            key_TD, value_TD = key_TD.contiguous(), value_TD.contiguous()
        if documents.whole_rows and (self.dense or self.engine or self.rows):
            return self._rows(query_TQ, key_TD, value_TD, documents.whole_rows)
        query_THD = query_TQ.view(-1, self.heads, self.width)
        key_TGD, value_TGD = key_TD.unsqueeze(1), value_TD.unsqueeze(1)
        if self.engine:
            out = self.core(
                query_THD,
                key_TGD,
                value_TGD,
                cu_seqlens_q=documents.boundaries,
                cu_seqlens_kv=documents.boundaries,
                max_seqlen_q=documents.longest,
                max_seqlen_kv=documents.longest,
            )
        else:
            packed = packed_params(documents.boundaries, documents.longest)
            out = self.core(query_THD, key_TGD, value_TGD, None, packed_seq_params=packed)
        attended: Tensor = out.reshape(query_TQ.shape)
        return attended

    def _rows(self, query_TQ: Tensor, key_TD: Tensor, value_TD: Tensor, rows: int) -> Tensor:
        query_BSHD = query_TQ.view(rows, -1, self.heads, self.width)
        key_BS1D, value_BS1D = (t.view(rows, -1, 1, self.width) for t in (key_TD, value_TD))
        if self.rows:
            out = self.rows(query_BSHD, key_BS1D, value_BS1D)
        elif not self.dense:
            options = {"qkv_format": "bshd", "attn_mask_type": "causal"}
            out = self.core(query_BSHD, key_BS1D, value_BS1D, **options)
        else:
            query, key, value = (t.transpose(1, 2) for t in (query_BSHD, key_BS1D, value_BS1D))
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
            out = out.transpose(1, 2)
        attended: Tensor = out.reshape(query_TQ.shape)
        return attended


def _engine_attention(config: TransformerConfig, heads: int) -> torch.nn.Module:
    from transformer_engine.pytorch import DotProductAttention

    # Head counts are of this rank; key and value are the same on all tensor ranks.
    attention: torch.nn.Module = DotProductAttention(
        heads,
        config.kv_channels,
        num_gqa_groups=1,
        attention_dropout=config.attention_dropout,
        qkv_format="thd",
        attn_mask_type="padding_causal",
        get_rng_state_tracker=tensor_parallel.get_cuda_rng_tracker,
    )
    return attention
