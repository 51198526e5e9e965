"""Attention over packed documents, without Transformer Engine.

Rows are laid end to end, and each document attends to itself alone (``thd`` format: tokens, heads, dim, with
cumulative document lengths), so no tensor of sequence length squared is stored. Rotary positions and the sliding window
are relative to the document, too. Shape suffixes: T tokens, H query heads of this rank, G key and value groups of this
rank, D head dim.
"""

import importlib.util
import inspect
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_octo.model.attention.rotary import Rotary, rotate


def flash_available() -> bool:
    """Return whether this torch has variable-length flash attention with the arguments used here (2.11 has)."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return False
    from torch.nn.attention.varlen import varlen_attn

    return {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys()


def packed_params(boundaries: Tensor, longest: int) -> PackedSeqParams:
    """Return megatron-core's description of packed documents: cumulative lengths, int32, and their upper bound."""
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=boundaries,
        cu_seqlens_kv=boundaries,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


class PackedAttention(MegatronModule):
    """Core attention of megatron-core's layer; subclasses compute it for one set of documents."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
        rotary: Rotary | None = None,
        **_: Any,
    ):
        super().__init__(config=config)
        self.scale = softmax_scale if softmax_scale is not None else config.kv_channels**-0.5
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.rotary = rotary
        # Megatron-core's window counts the tokens before a position; this one includes the position.
        self.window = config.window_size[0] + 1 if config.window_size else None

    def forward(
        self,
        query_THD: Tensor,
        key_TGD: Tensor,
        value_TGD: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        """Compute causal attention inside each document, [T, H, D] in the queries' dtype; H / G heads share a group.

        Raises:
            ValueError: ``packed_seq_params`` is missing.
        """
        if packed_seq_params is None:
            raise ValueError("this attention takes packed documents only")
        if self.rotary:
            tables = self.rotary.tables(packed_seq_params.cu_seqlens_q, query_THD.size(0))
            query_THD, key_TGD = rotate(query_THD, *tables), rotate(key_TGD, *tables)
        return self._attend(query_THD, key_TGD, value_TGD, packed_seq_params)

    def _attend(self, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, packed: PackedSeqParams) -> Tensor:
        raise NotImplementedError

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        """Return no state: there are no parameters."""
        return {}


class DocumentAttention(PackedAttention):
    """Calls scaled_dot_product_attention once per document: on any device and dtype, and the fastest on a CPU."""

    def _attend(self, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, packed: PackedSeqParams) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if dropout:
            # Tensor ranks have different heads, so they need different dropout masks.
            with tensor_parallel.get_cuda_rng_tracker().fork():
                return self._documents(query_THD, key_TGD, value_TGD, packed.cu_seqlens_q.tolist(), dropout)
        return self._documents(query_THD, key_TGD, value_TGD, packed.cu_seqlens_q.tolist(), 0.0)

    def _documents(self, query: Tensor, key: Tensor, value: Tensor, boundaries: list[int], dropout: float) -> Tensor:
        outputs = []
        for start, end in itertools.pairwise(boundaries):
            q_1HTD, k_1GTD, v_1GTD = (t[start:end].transpose(0, 1).unsqueeze(0) for t in (query, key, value))
            if self.window and end - start > self.window:
                attended = self._windows(q_1HTD, k_1GTD, v_1GTD, self.window, dropout)
            else:
                attended = self._fused(q_1HTD, k_1GTD, v_1GTD, dropout, is_causal=end - start > 1)
            outputs.append(attended.squeeze(0).transpose(0, 1))
        return torch.cat(outputs)

    def _windows(self, query: Tensor, key: Tensor, value: Tensor, window: int, dropout: float) -> Tensor:
        """Compute a document longer than the window, ``window`` queries at a time with at most twice as many keys."""
        length = query.size(2)
        positions = torch.arange(length, device=query.device)
        outputs = []
        for start in range(0, length, window):
            first, stop = max(0, start - window + 1), min(start + window, length)
            distance = positions[start:stop, None] - positions[None, first:stop]
            outputs.append(
                self._fused(
                    query[:, :, start:stop],
                    key[:, :, first:stop],
                    value[:, :, first:stop],
                    dropout,
                    attn_mask=(distance >= 0) & (distance < window),
                )
            )
        return torch.cat(outputs, dim=2)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, dropout: float, **mask: Any) -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=self.scale, enable_gqa=True, **mask
        )


class FlashAttention(PackedAttention):
    """Torch's variable-length flash attention (CUDA, bf16, no dropout)."""

    def _attend(self, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, packed: PackedSeqParams) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        # The kernel needs a key and a value for every query head.
        shared = query_THD.size(1) // key_TGD.size(1)
        key_THD, value_THD = (
            part.unsqueeze(2).expand(-1, -1, shared, -1).flatten(1, 2) for part in (key_TGD, value_TGD)
        )
        attended = varlen_attn(
            query_THD,
            key_THD,
            value_THD,
            packed.cu_seqlens_q,
            packed.cu_seqlens_q,
            packed.max_seqlen_q,
            packed.max_seqlen_q,
            scale=self.scale,
            window_size=(self.window - 1 if self.window else -1, 0),
        )
        assert isinstance(attended, Tensor)
        return attended
