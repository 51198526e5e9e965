"""Memory of one GPU by part, from the bytes of every tensor that a training step keeps. No torch, no measuring.

The formula is held against ``torch.cuda.max_memory_allocated`` in benchmarks/plan.py.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_octo.architectures import adapted_modules
from megatron_octo.architectures.adapters import adapter_parameters
from megatron_octo.architectures.parameters import (
    LAYER_PREFIX,
    WORD_EMBEDDINGS,
    ParameterSpec,
    parameter_specs,
)
from megatron_octo.config.optimizer_state import state_bytes
from megatron_octo.model.layer_choice import use_fused_layers
from megatron_octo.recipe.schema import Recipe

GIB = 2**30
_LAYER = re.compile(re.escape(LAYER_PREFIX) + r"(\d+)\.")
# cuBLAS takes a workspace of this size on Hopper: torch's has two, Transformer Engine's a third.
_CUBLAS = 32 * 2**20


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest GPU at the fullest moment: the loss of the last micro-batch, or the backward of a layer.

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
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        names = ("weights", "gradients", "optimizer", "activations", "logits", "workspace")
        return {name: getattr(self, name) for name in names}


def element_bytes(recipe: Recipe) -> int:
    return 2 if recipe.train.precision == "bf16" else 4


def stage_parameters(recipe: Recipe, stage: int) -> int:
    """Parameters that one GPU of a pipeline stage holds, the last stage's copy of tied embeddings included."""
    whole = _held(recipe, stage, parameter_specs(recipe.model))
    return whole + trained_parameters(recipe, stage) if recipe.lora else whole


def trained_parameters(recipe: Recipe, stage: int) -> int:
    """Those that have gradients and optimizer state: all, or the adapters."""
    lora = recipe.lora
    specs = adapter_parameters(recipe.model, lora) if lora else parameter_specs(recipe.model)
    return _held(recipe, stage, specs)


def _held(recipe: Recipe, stage: int, specs: Mapping[str, ParameterSpec]) -> int:
    stages, tensor = recipe.parallel.pipeline, recipe.parallel.tensor
    layers = recipe.model.num_layers // stages
    total = 0
    for name, spec in specs.items():
        match = _LAYER.match(name)
        if match:
            here = int(match[1]) // layers == stage
        elif name == WORD_EMBEDDINGS:
            here = stage == 0 or (recipe.model.tied_embeddings and stage == stages - 1)
        else:
            here = stage == (0 if name.startswith("embedding.") else stages - 1)
        if here:
            total += math.prod(spec.box(0, tensor)[1])
    return total


def _copied_parameters(recipe: Recipe) -> float:
    """Parameters of a stage that the fused layers hold whole on every tensor rank, and megatron-core's cut."""
    model, tensor = recipe.model, recipe.parallel.tensor
    if recipe.lora or not use_fused_layers(recipe):
        return 0.0
    key_and_value = 2 * model.head_dim * (model.hidden_size + 1)
    return model.num_layers / recipe.parallel.pipeline * key_and_value * (1 - 1 / tensor)


def _fp8_weights(recipe: Recipe, stage: int, in_flight: int) -> int:
    """Bytes of the linear layers' weights in fp8.

    Megatron-core's layers hold them as they are and transposed; the fused ones transposed, from a micro-batch's forward
    pass to its backward pass.
    """
    if recipe.train.fp8 == "none":
        return 0
    copies = 2
    if use_fused_layers(recipe):
        copies = 0 if recipe.train.recompute == "full" else in_flight
    specs = parameter_specs(recipe.model)
    linear = {name: spec for name, spec in specs.items() if _LAYER.match(name) and len(spec.shape) == 2}
    return copies * int(_held(recipe, stage, linear) + _copied_parameters(recipe))


def layer_tensors(recipe: Recipe) -> dict[str, float]:
    """Bytes a token that one layer keeps from its forward pass to its backward pass on one GPU, by tensor.

    Norms work on tokens that sequence parallelism shares out; what lies between the linear layers is split by
    tensor parallelism, but for keys and values, of which there may be fewer than ranks.
    """
    model, tensor = recipe.model, recipe.parallel.tensor
    size, hidden, ffn = element_bytes(recipe), model.hidden_size, model.ffn_hidden_size
    share = tensor if recipe.parallel.sequence else 1
    groups = max(1, model.num_query_groups / tensor)
    tensors = {
        "attention: residual": size * hidden / share,
        "attention: normed": size * hidden / share,
        "attention: mean and deviation": 8 / share,
        "attention: queries": size * hidden / tensor,
        "attention: keys and values": 2 * size * model.head_dim * groups,
        "attention: output": size * hidden / tensor,
        "attention: log-sum-exp": 4 * model.num_attention_heads / tensor,
        "mlp: residual": size * hidden / share,
        "mlp: normed": size * hidden / share,
        "mlp: mean and deviation": 8 / share,
        "mlp: before the activation": size * ffn / tensor,
        "mlp: after the activation": size * ffn / tensor,
    }
    if recipe.train.fp8 != "none":
        fused, again = use_fused_layers(recipe), recipe.train.recompute == "mlp"
        tensors["mlp: after the activation"] /= size
        # What is gathered or computed again is kept as it came.
        if not (fused and recipe.parallel.sequence):
            tensors["attention: normed"] /= size
        if not (fused and (recipe.parallel.sequence or again)):
            tensors["mlp: normed"] /= size
        if fused:  # attention keeps its own
            tensors["attention: output in fp8"] = hidden / tensor
    if model.hidden_dropout and not use_fused_layers(recipe):  # the fused layers remember a seed
        tensors["attention: dropout mask"] = hidden / share
        tensors["mlp: dropout mask"] = hidden / share
    if recipe.lora and recipe.lora.dropout:
        # Each adapter keeps its input with some of it dropped. What frozen layers need not keep is not subtracted.
        for module in adapted_modules(model, recipe.lora):
            column = module.endswith(("linear_qkv", "linear_fc1"))
            width = hidden / share if column else (ffn if module.endswith("fc2") else hidden) / tensor
            tensors[f"{module.replace('.', ': ')} adapter"] = (size + 1) * width
    return tensors


def kept_tensors(recipe: Recipe) -> dict[str, float]:
    """Those of :func:`layer_tensors` that recomputation leaves."""
    tensors, fused = layer_tensors(recipe), use_fused_layers(recipe)
    if recipe.train.recompute == "full":
        residual = tensors["attention: residual"]
        # Between fused layers the last sublayer's output is not yet added to the residual.
        return {"attention: residual": residual, **({"attention: to be added": residual} if fused else {})}
    if recipe.train.recompute == "mlp":
        again = {
            *(() if fused else ("mlp: normed", "mlp: mean and deviation")),
            "mlp: before the activation",
            "mlp: after the activation",
            *(name for name in tensors if name.startswith("mlp: linear")),
        }
        return {name: size for name, size in tensors.items() if name not in again}
    return tensors


def logit_bytes(recipe: Recipe) -> float:
    """Bytes a token that the loss holds at once on one GPU."""
    columns = recipe.model.padded_vocab_size / recipe.parallel.tensor
    size = element_bytes(recipe)
    if use_fused_layers(recipe):
        return size * columns  # overwritten with their gradient
    if recipe.system.cross_entropy == "reference":
        return 2 * 4 * columns  # fp32, and their gradient
    return 2 * size * columns  # Transformer Engine's copy becomes the gradient


def _loss_bytes(recipe: Recipe, tokens: int) -> float:
    """Beside the logits, while they become gradients: of the last hidden state, and of the word embeddings."""
    if not use_fused_layers(recipe):
        return 0.0  # megatron-core has freed one copy of the logits by then
    model, size = recipe.model, element_bytes(recipe)
    return size * model.hidden_size * (tokens + model.padded_vocab_size / recipe.parallel.tensor)


def _backward_bytes(recipe: Recipe, tokens: int) -> float:
    """While one layer's backward pass runs: what it computes again, and the gradients in flight."""
    kept, size, tensor = kept_tensors(recipe), element_bytes(recipe), recipe.parallel.tensor
    hidden, ffn = recipe.model.hidden_size, recipe.model.ffn_hidden_size / tensor
    again = sum(value for name, value in layer_tensors(recipe).items() if name not in kept)
    if use_fused_layers(recipe):
        # Into and out of the MLP, its input gathered, and before the activation; two weights' placeholders.
        in_flight = size * (tokens * (3 * hidden + ffn) + 2 * hidden * ffn)
        # The gradient before the activation, and its fp8, as it is and transposed.
        if recipe.train.fp8 != "none":
            in_flight += (size + 2) * tokens * ffn
    else:
        in_flight = size * tokens * 2 * (hidden + ffn)
    return tokens * again + in_flight


def stage_memory(recipe: Recipe, replicas: int, micro_batches: int, stage: int) -> Memory:
    """Memory of a GPU of one pipeline stage.

    Args:
        replicas: data-parallel size; the optimizer's state is sharded over it.
        micro_batches: of one step and replica.
    """
    parallel, model, size = recipe.parallel, recipe.model, element_bytes(recipe)
    copied = _copied_parameters(recipe)
    parameters = stage_parameters(recipe, stage) + copied
    trained = trained_parameters(recipe, stage) + copied
    tokens = recipe.batch.micro_size * recipe.data.seq_length
    last = stage == parallel.pipeline - 1
    half = recipe.optimizer.state_dtype == "bf16"
    # An fp32 model's weights are its fp32 weights.
    state = state_bytes(recipe.optimizer) + (4 if size == 2 else 0)
    # One forward, one backward: a stage holds as many micro-batches as there are stages from it to the last.
    in_flight = min(parallel.pipeline - stage, micro_batches)
    layers = model.num_layers // parallel.pipeline
    activations = in_flight * layers * tokens * sum(kept_tensors(recipe).values())
    share = parallel.tensor if parallel.sequence else 1
    workspace = 3.0 * _CUBLAS
    loss = beside = 0.0
    if stage == 0 and model.hidden_dropout:  # the mask after the embedding
        activations += in_flight * tokens * model.hidden_size / share
    if last:
        activations += tokens * 2 * size * model.hidden_size / share  # the last norm, before and after
        loss, beside = tokens * logit_bytes(recipe), _loss_bytes(recipe, tokens)
    if parallel.sequence:
        workspace += tokens * size * model.hidden_size  # the buffer into which the tokens are gathered
    return Memory(
        weights=size * parameters + _fp8_weights(recipe, stage, in_flight),
        gradients=(2 if half else 4) * trained,
        optimizer=state * trained / replicas,
        activations=activations,
        logits=loss,
        workspace=workspace + max(beside, _backward_bytes(recipe, tokens) - loss),
        stage=stage,
    )


def memory(recipe: Recipe, replicas: int, micro_batches: int) -> Memory:
    """Memory of the fullest GPU."""
    stages = range(recipe.parallel.pipeline)
    return max(
        (stage_memory(recipe, replicas, micro_batches, stage) for stage in stages), key=lambda m: m.total
    )
