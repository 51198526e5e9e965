"""Memory of one GPU by part, from the bytes of every tensor that a training step keeps.

benchmarks/estimates.py compares the formula with ``torch.cuda.max_memory_allocated``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_octo.architectures import adapted_modules, describe_layer
from megatron_octo.architectures.adapters import adapter_parameters
from megatron_octo.architectures.parameters import (
    LAYER_PREFIX,
    WORD_EMBEDDINGS,
    ParameterSpec,
    parameter_specs,
    stage_of,
)
from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.config.optimizer_state import state_bytes

GIB = 2**30
# cuBLAS takes a workspace of this size on Hopper: torch's has two, Transformer Engine's a third.
_CUBLAS = 32 * 2**20


@dataclass(frozen=True)
class Memory:
    """Peak bytes on the fullest GPU, at the loss of the last micro-batch or in a layer's backward pass.

    Attributes:
        stage: the pipeline stage of that GPU.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    workspace: float
    stage: int = 0

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Return the bytes by part."""
        names = ("weights", "gradients", "optimizer", "activations", "logits", "workspace")
        return {name: getattr(self, name) for name in names}


def stage_parameters(model: ModelConfig, compute: Compute, stage: int) -> int:
    """Count the parameters on one GPU of a pipeline stage, including the last stage's copy of tied embeddings."""
    whole = _held(model, compute, stage, parameter_specs(model))
    return whole + trained_parameters(model, compute, stage) if compute.lora else whole


def trained_parameters(model: ModelConfig, compute: Compute, stage: int) -> int:
    """Count those with gradients and optimizer state: all, or the adapters."""
    lora = compute.lora
    specs = adapter_parameters(model, lora) if lora else parameter_specs(model)
    return _held(model, compute, stage, specs)


def _held(model: ModelConfig, compute: Compute, stage: int, specs: Mapping[str, ParameterSpec]) -> int:
    layout, total = compute.layout, 0
    for name, spec in specs.items():
        copied = name == WORD_EMBEDDINGS and model.tied_embeddings and stage == layout.pipeline - 1
        if copied or stage_of(name, model, layout) == stage:
            total += math.prod(spec.local_shape(layout.tensor))
    return total


def _copied_parameters(model: ModelConfig, compute: Compute) -> float:
    """Count a stage's parameters that the fused layers replicate and megatron-core's layers cut: key and value."""
    tensor = compute.layout.tensor
    if compute.lora or not compute.fused:
        return 0.0
    key_and_value = 2 * model.head_dim * (model.hidden_size + 1)
    return model.num_layers / compute.layout.pipeline * key_and_value * (1 - 1 / tensor)


def _fp8_weights(model: ModelConfig, compute: Compute, stage: int, in_flight: int) -> int:
    """Return the bytes of the linear layers' weights in fp8.

    Megatron-core's layers keep them plain and transposed; the fused layers transposed, from a micro-batch's forward
    pass to its backward pass.
    """
    if compute.fp8 == "none":
        return 0
    copies = 2
    if compute.fused:
        copies = 0 if compute.recompute == "full" else in_flight
    specs = parameter_specs(model)
    linear = {name: spec for name, spec in specs.items() if name.startswith(LAYER_PREFIX) and len(spec.shape) == 2}
    return copies * int(_held(model, compute, stage, linear) + _copied_parameters(model, compute))


def layer_tensors(model: ModelConfig, compute: Compute) -> dict[str, float]:
    """Return the bytes per token that one layer keeps from forward to backward pass on one GPU, by tensor.

    Sequence parallelism cuts the tokens of norms; tensor parallelism cuts what lies between linear layers, except
    keys and values if there are fewer than ranks.
    """
    tensor, share = compute.layout.tensor, compute.layout.token_ranks
    size, hidden, ffn = compute.element_bytes, model.hidden_size, model.ffn_hidden_size
    kinds = describe_layer(model)
    statistics = (8 if kinds.norm == "layer_norm" else 4) / share  # fp32: deviation, and the mean if there is one
    groups = max(1, model.num_query_groups / tensor)
    tensors = {
        "attention: residual": size * hidden / share,
        "attention: normed": size * hidden / share,
        "attention: statistics": statistics,
        "attention: queries": size * model.attention_size / tensor,
        "attention: keys and values": 2 * size * model.head_dim * groups,
        "attention: output": size * model.attention_size / tensor,
        "attention: log-sum-exp": 4 * model.num_attention_heads / tensor,
        "mlp: residual": size * hidden / share,
        "mlp: normed": size * hidden / share,
        "mlp: statistics": statistics,
        "mlp: before the activation": size * kinds.fc1_parts * ffn / tensor,
        "mlp: after the activation": size * ffn / tensor,
    }
    if compute.fp8 != "none":
        fused, again = compute.fused, compute.recompute == "mlp"
        tensors["mlp: after the activation"] /= size
        # Tensors that are gathered or computed again are kept in their own dtype.
        if not (fused and compute.layout.sequence):
            tensors["attention: normed"] /= size
        if not (fused and (compute.layout.sequence or again)):
            tensors["mlp: normed"] /= size
        if fused:  # beside the output that attention keeps
            tensors["attention: output in fp8"] = hidden / tensor
    if model.hidden_dropout and not compute.fused:  # the fused layers remember a seed
        tensors["attention: dropout mask"] = hidden / share
        tensors["mlp: dropout mask"] = hidden / share
    if compute.lora and compute.lora.dropout:
        # Each adapter keeps its input after dropout. Tensors that frozen layers do not keep are not subtracted.
        for module in adapted_modules(model, compute.lora):
            column = module.endswith(("linear_qkv", "linear_fc1"))
            width = hidden / share if column else (ffn if module.endswith("fc2") else hidden) / tensor
            tensors[f"{module.replace('.', ': ')} adapter"] = (size + 1) * width
    return tensors


def kept_tensors(model: ModelConfig, compute: Compute) -> dict[str, float]:
    """Return those of :func:`layer_tensors` that are not recomputed."""
    tensors, fused = layer_tensors(model, compute), compute.fused
    if compute.recompute == "full":
        residual = tensors["attention: residual"]
        # Between fused layers the last sublayer's output is not yet added to the residual.
        return {"attention: residual": residual, **({"attention: to be added": residual} if fused else {})}
    if compute.recompute == "mlp":
        again = {
            *(() if fused else ("mlp: normed", "mlp: statistics")),
            "mlp: before the activation",
            "mlp: after the activation",
            *(name for name in tensors if name.startswith("mlp: linear")),
        }
        return {name: size for name, size in tensors.items() if name not in again}
    return tensors


def logit_bytes(model: ModelConfig, compute: Compute) -> float:
    """Return the bytes per token of the logits and their gradient on one GPU."""
    columns = model.padded_vocab_size / compute.layout.tensor
    size = compute.element_bytes
    if compute.fused:
        return size * columns  # overwritten with their gradient
    if compute.cross_entropy == "reference":
        return 2 * 4 * columns  # fp32, and their gradient
    return 2 * size * columns  # Transformer Engine's copy becomes the gradient


def _loss_bytes(model: ModelConfig, compute: Compute, tokens: int) -> float:
    """Return the bytes of the last hidden state's and the embeddings' gradients, which exist beside the logits."""
    if not compute.fused:
        return 0.0  # megatron-core has freed one copy of the logits by then
    return compute.element_bytes * model.hidden_size * (tokens + model.padded_vocab_size / compute.layout.tensor)


def _backward_bytes(model: ModelConfig, compute: Compute, tokens: int) -> float:
    """Return the bytes that one layer's backward pass takes: recomputed tensors, and gradients of its activations."""
    kept, size, tensor = kept_tensors(model, compute), compute.element_bytes, compute.layout.tensor
    hidden, ffn = model.hidden_size, model.ffn_hidden_size / tensor
    again = sum(value for name, value in layer_tensors(model, compute).items() if name not in kept)
    if compute.fused:
        # Into and out of the MLP, its input gathered, and before the activation; two weights' placeholders.
        in_flight = size * (tokens * (3 * hidden + ffn) + 2 * hidden * ffn)
        # The gradient before the activation, and its fp8, as it is and transposed.
        if compute.fp8 != "none":
            in_flight += (size + 2) * tokens * ffn
    else:
        in_flight = size * tokens * (2 * hidden + (1 + describe_layer(model).fc1_parts) * ffn)
    return tokens * again + in_flight


def stage_memory(model: ModelConfig, compute: Compute, replicas: int, micro_batches: int, stage: int) -> Memory:
    """Return the memory of a GPU of one pipeline stage.

    ``replicas`` is the data-parallel size, over which the optimizer's state is sharded; ``micro_batches`` are those of
    one step and replica.
    """
    layout, size = compute.layout, compute.element_bytes
    copied = _copied_parameters(model, compute)
    parameters = stage_parameters(model, compute, stage) + copied
    trained = trained_parameters(model, compute, stage) + copied
    tokens = compute.micro_tokens
    last = stage == layout.pipeline - 1
    half = compute.state_dtype == "bf16"
    # An fp32 model's weights are its fp32 weights.
    state = state_bytes(compute.state_dtype) + (4 if size == 2 else 0)
    # One forward, one backward: a stage holds as many micro-batches as there are stages from it to the last.
    in_flight = min(layout.pipeline - stage, micro_batches)
    layers = model.num_layers // layout.pipeline
    activations = in_flight * layers * tokens * sum(kept_tensors(model, compute).values())
    share = layout.token_ranks
    workspace = 3.0 * _CUBLAS
    loss = beside = 0.0
    if stage == 0 and model.hidden_dropout:  # the mask after the embedding
        activations += in_flight * tokens * model.hidden_size / share
    if last:
        activations += tokens * 2 * size * model.hidden_size / share  # the last norm, before and after
        loss, beside = tokens * logit_bytes(model, compute), _loss_bytes(model, compute, tokens)
    if layout.sequence:
        workspace += tokens * size * model.hidden_size  # the buffer into which the tokens are gathered
    return Memory(
        weights=size * parameters + _fp8_weights(model, compute, stage, in_flight),
        gradients=(2 if half else 4) * trained,
        optimizer=state * trained / replicas,
        activations=activations,
        logits=loss,
        workspace=workspace + max(beside, _backward_bytes(model, compute, tokens) - loss),
        stage=stage,
    )


def memory(model: ModelConfig, compute: Compute, replicas: int, micro_batches: int) -> Memory:
    """Return the memory of the fullest GPU."""
    stages = range(compute.layout.pipeline)
    return max(
        (stage_memory(model, compute, replicas, micro_batches, stage) for stage in stages),
        key=lambda m: m.total,
    )
