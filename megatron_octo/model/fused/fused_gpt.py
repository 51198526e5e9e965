"""The network on the fused layers, for megatron-core's schedules, data parallelism and optimizer.

Parameter names are megatron-core's, except for ``linear_q`` and ``linear_kv``, which together are its fused
``linear_qkv``; model/weights.py joins them in checkpoints. Shape suffixes as in :mod:`.layer_functions`.
"""

from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.enums import ModelType
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.model.attention.backend import Backend
from megatron_octo.model.fused.comm.exchange import TensorGroup
from megatron_octo.model.fused.comm.tensor_ranks import tensor_group
from megatron_octo.model.fused.core_attention import CoreAttention, Documents
from megatron_octo.model.fused.embedding import Embedding, Table, drop
from megatron_octo.model.fused.layer_functions import AddNorm, Mlp, Projection, QueryKeyValue
from megatron_octo.model.fused.losses import TokenLosses
from megatron_octo.model.fused.matmul.gradient_buffers import write_first
from megatron_octo.model.fused.matmul.matmul_backend import Arithmetic
from megatron_octo.model.fused.matmul.matmul_choice import arithmetic_of
from megatron_octo.model.mcore_gpt import transformer_config, valid_vocabulary
from megatron_octo.model.platform.grid import Grid


class Affine(torch.nn.Module):
    """A weight of ``shape`` and its bias.

    ``cut`` names how tensor ranks share them: by "rows", by "columns" of the weight with a whole bias, or "no".
    It must be called before each use: data parallelism waits in the call for gathered parameters.
    """

    def __init__(self, shape: tuple[int, ...], cut: str, tensor: TensorGroup):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(shape))
        self.bias = torch.nn.Parameter(torch.empty(shape[0]))
        for parameter, axis in ((self.weight, {"rows": 0, "columns": 1}.get(cut)), (self.bias, 0)):
            whole = axis is None or (parameter is self.bias and cut != "rows")
            if not whole:
                tensor_parallel.set_tensor_model_parallel_attributes(parameter, True, axis, 1)
            # Under sequence parallelism a parameter that is whole on every rank sees this rank's tokens only.
            parameter.sequence_parallel = whole and tensor.sequence  # type: ignore[attr-defined]

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias."""
        return self.weight, self.bias


class Attention(torch.nn.Module):
    """Multi-query attention; its output's bias is added by the next norm."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        backend: Backend,
        tensor: TensorGroup,
        arithmetic: Arithmetic,
    ):
        super().__init__()
        hidden, part = config.hidden_size, config.hidden_size // tensor.size
        self.shared = (tensor, arithmetic)
        self.linear_q = Affine((part, hidden), "rows", tensor)
        self.linear_kv = Affine((2 * config.kv_channels, hidden), "no", tensor)
        for parameter in self.linear_kv.parameters():
            # Each rank's heads give a part of the gradient, with and without sequence parallelism.
            parameter.sum_over_tensor_ranks = True  # type: ignore[attr-defined]
            parameter.sequence_parallel = False  # type: ignore[attr-defined]
        self.linear_proj = Affine((hidden, part), "columns", tensor)
        heads = config.num_attention_heads // tensor.size
        self.core_attention = CoreAttention(config, layer_number, backend, heads)

    def forward(self, x_SH: Tensor, documents: Documents) -> tuple[Tensor, Tensor]:
        """Return the output [S, H] and the bias [H] still to be added to it."""
        query, key, value = QueryKeyValue.apply(x_SH, *self.linear_q(), *self.linear_kv(), *self.shared)
        weight, bias = self.linear_proj()
        attended = self.core_attention(query, key, value, documents)
        return Projection.apply(attended, weight, *self.shared), bias


class FeedForward(torch.nn.Module):
    """Two linear layers with gelu between them; the second bias is added by the next norm."""

    def __init__(self, config: TransformerConfig, tensor: TensorGroup, recompute: bool, arithmetic: Arithmetic):
        super().__init__()
        hidden, inner = config.hidden_size, config.ffn_hidden_size // tensor.size
        self.shared = (tensor, recompute, arithmetic)
        self.linear_fc1 = Affine((inner, hidden), "rows", tensor)
        self.linear_fc2 = Affine((hidden, inner), "columns", tensor)

    def forward(self, x_SH: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output [S, H] and the bias [H] still to be added to it."""
        weight2, bias2 = self.linear_fc2()
        return Mlp.apply(x_SH, *self.linear_fc1(), weight2, *self.shared), bias2


class Norm(Affine):
    """Adds the last sublayer's output and bias to the residual stream, and normalises the sum."""

    def __init__(self, config: TransformerConfig, tensor: TensorGroup, measure: bool):
        super().__init__((config.hidden_size,), "no", tensor)
        self.eps, self.dropout, self.tensor = config.layernorm_epsilon, config.hidden_dropout, tensor
        self.measure = measure

    def forward(  # type: ignore[override]
        self, residual_SH: Tensor, delta_SH: Tensor | None, bias_H: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the new residual stream and its norm, [S, H] each."""
        p = self.dropout if self.training and delta_SH is not None else 0.0
        seed = 0
        if p:
            # Drawn from the CPU's generator, which is equal on a replica's tensor ranks, saved in checkpoints, and
            # restored for recomputation.
            seed = int(torch.randint(1 << 30, ()))
            if self.tensor.sequence:  # the ranks hold different tokens
                seed = (seed + self.tensor.rank * 0x9E3779B1) % (1 << 30)
        parts = (residual_SH, delta_SH, bias_H, self.weight, self.bias)
        found: tuple[Tensor, Tensor] = AddNorm.apply(*parts, self.eps, p, seed, self.measure)
        return found


# The residual stream, and the last sublayer's output and bias, which are still to be added to it.
Stream = tuple[Tensor, Tensor | None, Tensor | None]


class Layer(torch.nn.Module):
    """One pre-norm transformer layer."""

    def __init__(
        self,
        compute: Compute,
        config: TransformerConfig,
        number: int,
        backend: Backend,
        tensor: TensorGroup,
        arithmetic: Arithmetic,
    ):
        super().__init__()
        self.layer_number = number  # from 1, through all stages
        self.recompute = compute.recompute == "full"
        self.input_layernorm = Norm(config, tensor, arithmetic.measured)
        self.self_attention = Attention(config, number, backend, tensor, arithmetic)
        self.pre_mlp_layernorm = Norm(config, tensor, arithmetic.measured)
        self.mlp = FeedForward(config, tensor, compute.recompute == "mlp", arithmetic)

    def _run(self, stream: Stream, documents: Documents) -> tuple[Tensor, Tensor, Tensor]:
        residual, x = self.input_layernorm(*stream)
        residual, x = self.pre_mlp_layernorm(residual, *self.self_attention(x, documents))
        return residual, *self.mlp(x)

    def forward(self, stream: Stream, documents: Documents) -> Stream:
        """Return the stream after this layer; with full recomputation, only the input is kept for the backward pass."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return self._run(stream, documents)
        residual, delta, bias = stream

        def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            # Biases are parameters, so they bypass the recomputed function.
            before = (tensors[0], tensors[1], bias) if len(tensors) > 1 else (tensors[0], None, None)
            after = self._run(before, documents)
            return after[0], after[1]

        inputs = (residual,) if delta is None else (residual, delta)
        residual, delta = tensor_parallel.checkpoint(run, False, *inputs)
        return residual, delta, self.mlp.linear_fc2.bias


class Decoder(torch.nn.Module):
    """The layers of one pipeline stage, and the last norm on the last."""

    def __init__(
        self,
        compute: Compute,
        config: TransformerConfig,
        backend: Backend,
        tensor: TensorGroup,
        arithmetic: Arithmetic,
        grid: Grid,
    ):
        super().__init__()
        self.layers = torch.nn.ModuleList(
            Layer(compute, config, number + 1, backend, tensor, arithmetic)
            for number in grid.layout.layers_of(grid.pipeline_rank, config.num_layers)
        )
        self.dropout = config.hidden_dropout
        self.tensor = tensor
        self.final_layernorm = Norm(config, tensor, arithmetic.measured) if grid.is_last_stage else None

    def forward(self, residual_SH: Tensor, documents: Documents) -> Tensor:
        """Return normalised hidden states on the last stage, the complete residual stream on the others: [S, H]."""
        stream: Stream = (residual_SH, None, None)
        for layer in self.layers:
            stream = layer(stream, documents)
        if self.final_layernorm is not None:
            normed: Tensor = self.final_layernorm(*stream)[1]
            return normed
        residual, delta, bias = stream
        assert delta is not None and bias is not None
        return residual + drop(delta + bias, self.dropout, self.training, self.tensor)


class FusedGPT(LanguageModule):
    """GPTBigCode from tokens to the loss of each token, or one pipeline stage of it."""

    def __init__(self, model: ModelConfig, compute: Compute, grid: Grid, backend: Backend):
        config = transformer_config(model, compute, backend, grid.device)
        super().__init__(config=config)
        tensor = tensor_group(model, compute, grid)
        self.tensor, self.valid = tensor, valid_vocabulary(model, grid)
        self.arithmetic = arithmetic_of(model, compute, grid.device)
        self.pre_process, self.post_process = grid.is_first_stage, grid.is_last_stage
        self.share_embeddings_and_output_weights = True
        self.model_type = ModelType.encoder_or_decoder
        self.vp_stage = None
        self.input_tensor: Tensor | None = None
        if self.pre_process:
            self.embedding = Embedding(config, model.padded_vocab_size, model.max_position_embeddings, tensor)
        self.decoder = Decoder(compute, config, backend, tensor, self.arithmetic, grid)
        if self.post_process and not self.pre_process:
            # A copy of the word embeddings, since the first stage is another rank.
            self.output_layer = Table(model.padded_vocab_size // tensor.size, model.hidden_size, cut=True)
        self.to(grid.device, config.params_dtype)
        self.setup_embeddings_and_output_layer()
        if self.pre_process and self.post_process:
            # Else megatron-core adds autograd's placeholder to the buffer, which holds both uses' gradients already.
            self.embedding.word_embeddings.weight.zero_out_wgrad = False  # type: ignore[attr-defined]
        # Matrices of the layers and of the output; gradients of vectors and tables' rows are added to a zeroed buffer.
        write_first(parameter for parameter in self.decoder.layers.parameters() if parameter.dim() == 2)
        if self.post_process:
            write_first([self.output_weight()])

    def set_input_tensor(self, tensors: Any) -> None:
        """Take the output of the stage before, [S, 1, H]; called by the pipeline schedule."""
        self.input_tensor = tensors[0] if isinstance(tensors, list) else tensors

    def hidden_states(self, tokens_1T: Tensor, positions_1T: Tensor, documents: Documents) -> Tensor:
        """Return the input of the output layer on the last stage, of the next stage on the others: [S, H]."""
        if self.pre_process:
            hidden_SH: Tensor = self.embedding(tokens_1T[0], positions_1T[0])
        else:
            assert self.input_tensor is not None
            hidden_SH = self.input_tensor.squeeze(1)
        hidden_SH = self.decoder(hidden_SH, documents)
        return hidden_SH

    def output_weight(self) -> Tensor:
        """Return this tensor rank's rows of the word embeddings, [V, H]; on the last stage."""
        weight: Tensor = self.embedding.word_embeddings.weight if self.pre_process else self.output_layer()
        return weight

    def forward(self, tokens_1T: Tensor, positions_1T: Tensor, documents: Documents, labels_T: Tensor) -> Tensor:
        """Return the tokens' losses, fp32 [T], on the last stage, else the next stage's input, [S, 1, H]."""
        hidden_SH = self.hidden_states(tokens_1T, positions_1T, documents)
        if not self.post_process:
            return hidden_SH.unsqueeze(1)
        losses_T: Tensor = TokenLosses.apply(
            hidden_SH, self.output_weight(), labels_T, self.valid, self.tensor, self.pre_process
        )
        return losses_T
