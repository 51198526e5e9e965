"""LoRA inside the network: adapters on megatron-core's linear layers, whose own weights are frozen.

An adapter is a submodule of its linear layer and adds to the layer's output. It communicates only its ``rank`` middle
columns:

- column-parallel (queries, keys and values; into the feed-forward part): the input is whole on every rank, so A is
  replicated and B is cut like the weight's rows. Under sequence parallelism each rank applies A to its tokens, and
  the result is gathered.
- row-parallel (out of attention; out of the feed-forward part): the input's features are cut, and A with them. The
  result is summed over the ranks (scattered over tokens under sequence parallelism) before the replicated B.
"""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_octo.architectures.adapters import AdapterSpec, adapter_specs
from megatron_octo.architectures.parameters import ParameterSpec, canonical_name
from megatron_octo.config.compute import Compute
from megatron_octo.config.model import LoraConfig, ModelConfig
from megatron_octo.model.platform.grid import Grid


class Adapter(torch.nn.Module):
    """Adds ``alpha / rank * B A dropout(x)`` to this tensor rank's part of one linear layer; ``spec`` is the whole."""

    def __init__(self, spec: AdapterSpec, lora: LoraConfig, config: TransformerConfig, grid: Grid):
        super().__init__()
        self.dropout, self.scale = lora.dropout, lora.alpha / lora.rank
        self.column_parallel = spec.b.axis == 0
        self.sequence_parallel = config.sequence_parallel
        self.a = self._parameter(spec.a, config, grid)
        self.b = self._parameter(spec.b, config, grid)

    def _parameter(self, spec: ParameterSpec, config: TransformerConfig, grid: Grid) -> torch.nn.Parameter:
        shape = spec.local_shape(grid.layout.tensor)
        parameter = torch.nn.Parameter(torch.empty(shape, dtype=config.params_dtype, device=grid.device))
        if spec.axis is not None:
            set_tensor_model_parallel_attributes(parameter, True, spec.axis, 1)
        else:
            # A replicated matrix sees only this rank's tokens: megatron-core sums its gradient over the tensor ranks.
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return parameter

    def _drop(self, input_SBI: Tensor) -> Tensor:
        if not (self.dropout and self.training):
            return input_SBI
        # Ranks that hold the same input drop the same of it; those that hold other tokens or features do not.
        same = self.column_parallel and not self.sequence_parallel
        with nullcontext() if same else tensor_parallel.get_cuda_rng_tracker().fork():
            return F.dropout(input_SBI, self.dropout)

    def forward(self, input_SBI: Tensor, output_SBO: Tensor) -> Tensor:
        """Add the adapter to a linear layer's output.

        Args:
            input_SBI: the layer's input [tokens, batch, in], as this rank has it.
            output_SBO: the layer's output [tokens, batch, out], as this rank has it.
        """
        middle_SBR = F.linear(self._drop(input_SBI), self.a)
        if self.column_parallel and self.sequence_parallel:
            middle_SBR = gather_from_sequence_parallel_region(middle_SBR, tensor_parallel_output_grad=True)
        elif self.column_parallel:
            middle_SBR = copy_to_tensor_model_parallel_region(middle_SBR)
        elif self.sequence_parallel:
            middle_SBR = reduce_scatter_to_sequence_parallel_region(middle_SBR)
        else:
            middle_SBR = reduce_from_tensor_model_parallel_region(middle_SBR)
        # One kernel multiplies and adds, and rounds once.
        flat = torch.addmm(output_SBO.flatten(0, 1), middle_SBR.flatten(0, 1), self.b.t(), alpha=self.scale)
        return flat.view_as(output_SBO)


def separate_norms(layer: ModuleSpec) -> None:
    """Make Transformer Engine's norms modules of their own, so that adapters get the normed input of a linear layer."""
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TENorm

    parts = layer.submodules
    parts.input_layernorm = parts.pre_mlp_layernorm = TENorm
    parts.self_attention.submodules.linear_qkv = TEColumnParallelLinear
    parts.mlp.keywords["submodules"].linear_fc1 = TEColumnParallelLinear


def _add(module: torch.nn.Module, inputs: tuple[Tensor], output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
    adapter: Any = module.lora
    return adapter(inputs[0], output[0]), output[1]


def attach_adapters(network: GPTModel, model: ModelConfig, compute: Compute, grid: Grid) -> None:
    """Freeze this stage's network and put adapters into it, not yet initialised."""
    lora = compute.lora
    assert lora is not None
    network.requires_grad_(False)
    first_layer = network.decoder.layers[0].layer_number - 1
    specs = {spec.module: spec for spec in adapter_specs(model, lora).values()}
    for name, module in list(network.named_modules()):
        spec = specs.get(canonical_name(name, first_layer))
        if spec is not None:
            module.lora = Adapter(spec, lora, network.config, grid)
            module.register_forward_hook(_add)
    if compute.recompute != "none" and grid.is_first_stage:
        # A recomputed function has gradients only if its input has, and nothing below the first layer is trained.
        network.embedding.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
